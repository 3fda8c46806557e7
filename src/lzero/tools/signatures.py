"""Read the signature of a tool's function: the text for the model, and the pydantic model that checks the arguments.

    describe(place: Place, style: Literal['short', 'long'] = 'short') -> str
    Describe a place.
    style: how much to say
    Place = {'name': str, 'year': int | None = None}
    Place.name: as on maps

Descriptions come from `Annotated[str, "how much to say"]` or `Field(description=…)`.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from lzero.errors import ToolError
from lzero.plugins import called_function
from lzero.protocols import ToolContext
from lzero.tools.shapes import Shapes, definitions_of, note, table
from lzero.tools.values import as_json

_LIMITS = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, arbitrary_types_allowed=False)
"""JSON has neither NaN nor infinities; pydantic would make them of the texts "nan" and "1e999", which a tool does not expect."""
_ARRIVE_AS = {"ndarray": "list", "Series": "list", "Tensor": "list", "DataFrame": "list[dict]", "Table": "list[dict]"}
"""Name of a library's type → how `lzero.tools.values` converts it; pydantic knows none of these types."""
_ITERATORS = (Iterable, Iterator, Generator)
_DEFAULT_CHARS = 80


@dataclass(frozen=True, kw_only=True)
class FunctionSignature:
    """Signature, purpose and parameters of a function that is a tool."""

    parameters: tuple[str, ...]
    context_name: str
    """Name of the parameter that takes the context; "" if there is none."""
    text: str
    purpose: str
    notes: tuple[str, ...]
    arguments: type[BaseModel]
    """Checks the arguments. The parameters are aliases of its fields, because a parameter may have the name of a pydantic method."""


def read_signature(function: Callable[..., object], tool: str) -> FunctionSignature:
    """Read the signature of `function`. Raises TypeError if a model could not call it, because a type or a docstring is missing, say."""
    shown, context_name, annotations = _parameters(function, tool)
    arguments = _arguments_model(tool, shown, annotations)
    try:
        schema = arguments.model_json_schema()
    except pydantic.PydanticUserError as error:
        raise _untestable(tool, error) from None
    shapes = Shapes(definitions_of(schema), given=True)
    properties = table(schema.get("properties"))
    parts, notes = [], []
    for parameter in shown:
        described = table(properties[parameter.name])
        parts.append(f"{parameter.name}: {shapes.annotation(described)}{_default(parameter, tool)}")
        if text := note(described):
            notes.append(f"{parameter.name}: {text}")
    returned, defined = _returned(annotations["return"]) if "return" in annotations else ("", ())
    return FunctionSignature(
        parameters=tuple(parameter.name for parameter in shown),
        context_name=context_name,
        text=f"{tool}({', '.join(parts)}){returned}",
        purpose=_purpose(function, tool),
        notes=tuple(dict.fromkeys((*notes, *shapes.definitions(), *defined))),
        arguments=arguments,
    )


def refusal(function: object) -> str:
    """Return why an object cannot be a tool's function ("not callable: …"); "" if it can."""
    if isinstance(function, type):
        return "a class: decorate a function, or make a tool of an object's method"
    if not callable(function):
        return "not callable: decorate a function"
    if inspect.isasyncgenfunction(function):
        return "an async generator: return a list"
    return "a tool already" if hasattr(function, "signature") and hasattr(function, "parameters") else ""


def _purpose(function: Callable[..., object], tool: str) -> str:
    """Return the docstring of a function, of a partial's function, or of an object's `__call__` or class. Raises TypeError without one."""
    while isinstance(function, functools.partial):
        function = function.func
    of_call = None if inspect.isroutine(function) else type(function).__call__.__doc__
    purpose = inspect.cleandoc(of_call) if of_call else inspect.getdoc(function)
    if not purpose:
        raise TypeError(f"the tool {tool} needs a docstring: the model reads it")
    return purpose


def _parameters(function: Callable[..., object], tool: str) -> tuple[list[inspect.Parameter], str, dict[str, Any]]:
    """Return the parameters that a model passes, the name of the one that takes the context ("" if none does), and all annotations.

    Arguments that a partial has bound are hidden from the model: one may be a secret key.
    """
    annotations = _annotations(function, tool)
    bound = function.keywords if isinstance(function, functools.partial) else {}
    shown: list[inspect.Parameter] = []
    context_name = ""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise TypeError(f"the tool {tool} has no signature that can be read: wrap it in a function") from None
    for parameter in parameters:
        if parameter.name in bound:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(
                f"the tool {tool} takes *{parameter.name}; a model gives arguments by name, one parameter each"
            )
        if parameter.name not in annotations:
            hint = f"as in {parameter.name}: str"
            if parameter.name in ("self", "cls"):
                hint = "or, of a method, an object that it belongs to: tool(thing.method)"
            raise TypeError(f"the tool {tool} needs a type for {parameter.name}, {hint}")
        annotation = annotations[parameter.name]
        if annotation is ToolContext or ToolContext in typing.get_args(annotation):
            context_name = parameter.name
        else:
            shown.append(parameter)
    return shown, context_name, annotations


def _annotations(function: Callable[..., object], tool: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(called_function(function), include_extras=True)
    except NameError as error:
        raise TypeError(f"the tool {tool} has an annotation that cannot be found: {error}") from None
    except TypeError:  # a function written in C
        return {}


def _arguments_model(tool: str, shown: list[inspect.Parameter], annotations: dict[str, Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(shown):
        default = ... if parameter.default is parameter.empty else None  # the function knows its own defaults
        annotation = annotations[parameter.name]
        description = _description(annotation)
        fields[f"argument_{number}"] = (annotation, Field(default, alias=parameter.name, description=description))
    try:
        return pydantic.create_model(tool, __config__=_LIMITS, **fields)
    except pydantic.PydanticUserError as error:
        raise _untestable(tool, error) from None


def _untestable(tool: str, error: pydantic.PydanticUserError) -> TypeError:
    return TypeError(f"the tool {tool} has a type that no JSON can be checked against: {error.message}")


def _description(annotation: Any) -> str | None:
    """Return the text of `Annotated[str, "text"]`; pydantic itself reads `Field(description=…)`."""
    if typing.get_origin(annotation) is not Annotated:
        return None
    return next((said for said in typing.get_args(annotation)[1:] if isinstance(said, str)), None)


def _default(parameter: inspect.Parameter, tool: str) -> str:
    if parameter.default is parameter.empty:
        return ""
    try:
        text = repr(as_json(parameter.default, tool=tool))
    except ToolError:
        text = "…"
    return f" = {text if len(text) <= _DEFAULT_CHARS else '…'}"


def _returned(annotation: Any) -> tuple[str, tuple[str, ...]]:
    """Return " -> type" for the result as plain data, and the definitions of the named types in it."""
    if typing.get_origin(annotation) in _ITERATORS:
        annotation = list[typing.get_args(annotation)[0]]  # type: ignore[misc] # only pydantic reads it
    try:
        schema = pydantic.TypeAdapter(annotation).json_schema(mode="serialization")
    except Exception:  # a type that pydantic does not know; lzero.tools.values may still convert it
        name = getattr(annotation, "__name__", None) or str(annotation)
        return f" -> {_ARRIVE_AS.get(name, name)}", ()
    shapes = Shapes(definitions_of(schema), given=False)
    text = shapes.annotation(schema)
    return f" -> {text}", tuple(shapes.definitions())
