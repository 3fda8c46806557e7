"""A typed function as a tool.

    @tool
    def add(a: int, b: int = 1) -> int:
        \"\"\"The sum of two numbers.\"\"\"
        return a + b

The model reads `add(a: int, b: int = 1) -> int` and the docstring. Its arguments are checked against the annotations, and
converted where nothing is lost ("3" for an int). A synchronous function runs in a thread of its own: it may block, but is not
stopped when a deadline passes. A parameter annotated `ToolContext` receives the context, and is not shown.
"""

import inspect
import keyword
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, ParamSpec, TypeVar, Union, overload

import msgspec
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from lzero.errors import ToolError
from lzero.protocols import ToolContext
from lzero.tools.threads import in_thread
from lzero.types import Json

P = ParamSpec("P")
R = TypeVar("R")
MAX_PROBLEMS = 5
"""Wrong arguments that one error tells of."""
MAX_VALUE_CHARS = 80
"""Of a wrong argument, in the error."""
MAX_RESULT_DEPTH = 32
_LIMITS = ConfigDict(extra="forbid", coerce_numbers_to_str=True, arbitrary_types_allowed=False)


class FunctionTool(Generic[P, R]):
    """A `protocols.Tool` made by `@tool`; called directly, it is still the function it was made from."""

    def __init__(self, function: Callable[P, R], *, name: str | None = None) -> None:
        self.function = function
        self.name = name or function.__name__
        if not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise TypeError(f"a tool needs a name that Python code can call, not {self.name!r}: write @tool(name=...)")
        purpose = inspect.getdoc(function)
        if not purpose:
            raise TypeError(f"the tool {self.name} needs a docstring: it is what a model knows of it")
        shown, self._context_name, annotations = _parameters(function, self.name)
        self.parameters = tuple(parameter.name for parameter in shown)
        self.signature = _signature(self.name, shown, annotations)
        self.description = f"{self.signature}\n{purpose}"
        self._arguments = _arguments_model(self.name, shown, annotations)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Raises ToolError: the agent's fault for arguments that do not fit, the tool's for a result that is not JSON. What the
        function raises comes through as it is."""
        values = self._checked(arguments)
        if self._context_name:
            values[self._context_name] = context
        function: Callable[..., Any] = self.function
        if inspect.iscoroutinefunction(function):
            result = await function(**values)
        else:
            result = await in_thread(function, **values)
        return as_json(result, tool=self.name)

    def _checked(self, arguments: dict[str, Json]) -> dict[str, Any]:
        try:
            checked = self._arguments.model_validate(arguments)
        except pydantic.ValidationError as error:
            details = error.errors(include_url=False)
            problems = [_problem(detail) for detail in details[:MAX_PROBLEMS]]
            if len(details) > MAX_PROBLEMS:
                problems.append(f"and {len(details) - MAX_PROBLEMS} more")
            raise ToolError(
                f"{self.name}: {'; '.join(problems)}. It is called as {self.signature}", fault="agent"
            ) from None
        fields = type(checked).model_fields
        return {str(fields[field].alias): getattr(checked, field) for field in checked.model_fields_set}


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(*, name: str) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(function: Callable[P, R] | None = None, /, *, name: str | None = None) -> Any:
    """Make a tool of a function, sync or async: `@tool`, or `@tool(name="add")`. Raises TypeError, which says what is missing: an
    annotation, a docstring."""
    if function is None:
        return lambda function: FunctionTool(function, name=name)
    return FunctionTool(function, name=name)


def as_json(value: object, *, tool: str) -> Json:
    """`value`, if it is JSON; tuples become lists. Raises ToolError, the tool's fault, that names the type that is not."""
    result = _as_json(value, tool, MAX_RESULT_DEPTH)
    try:
        msgspec.json.encode(result)
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise ToolError(f"{tool} returned what is not JSON: {error}", fault="tool") from None
    return result


def _as_json(value: object, tool: str, depth: int) -> Json:
    if depth < 0:
        raise ToolError(f"{tool} returned a value nested more than {MAX_RESULT_DEPTH} deep", fault="tool")
    if value is None or type(value) in (bool, int, str):
        return typing.cast(Json, value)
    if isinstance(value, float) and value - value == 0:  # finite
        return float(value)
    if isinstance(value, list | tuple):
        return [_as_json(item, tool, depth - 1) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {str(key): _as_json(item, tool, depth - 1) for key, item in value.items()}
    if isinstance(value, str | int):  # a subclass, such as an enum's member
        return str(value) if isinstance(value, str) else int(value)
    what = f"the number {value}" if isinstance(value, float) else f"a value of type {type(value).__qualname__}"
    if isinstance(value, dict):
        what = "a dict with keys that are not text"
    raise ToolError(f"{tool} returned {what}, which is not JSON: return text, numbers, lists and dicts", fault="tool")


def _parameters(function: Callable[..., object], tool: str) -> tuple[list[inspect.Parameter], str, dict[str, Any]]:
    """The parameters that a model gives, the name of the one that takes the context ("" where none does), and all annotations."""
    try:
        annotations = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"the tool {tool} has an annotation that cannot be found: {error}") from None
    shown: list[inspect.Parameter] = []
    context_name = ""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(
                f"the tool {tool} takes *{parameter.name}; a model gives arguments by name, one parameter each"
            )
        if parameter.name not in annotations:
            raise TypeError(f"the tool {tool} needs a type for {parameter.name}, as in {parameter.name}: str")
        annotation = annotations[parameter.name]
        if annotation is ToolContext or ToolContext in typing.get_args(annotation):
            context_name = parameter.name
        else:
            shown.append(parameter)
    return shown, context_name, annotations


def _arguments_model(tool: str, shown: list[inspect.Parameter], annotations: dict[str, Any]) -> type[BaseModel]:
    """What checks the arguments. Its fields have names of their own, for a parameter may be called as one of pydantic's methods."""
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(shown):
        default = ... if parameter.default is parameter.empty else None  # the function knows its own defaults
        fields[f"argument_{number}"] = (annotations[parameter.name], Field(default, alias=parameter.name))
    try:
        return pydantic.create_model(tool, __config__=_LIMITS, **fields)
    except pydantic.PydanticUserError as error:
        raise TypeError(f"the tool {tool} has a type that no JSON can be checked against: {error.message}") from None


def _signature(tool: str, shown: list[inspect.Parameter], annotations: dict[str, Any]) -> str:
    parts = []
    for parameter in shown:
        part = f"{parameter.name}: {_type_name(annotations[parameter.name])}"
        parts.append(part if parameter.default is parameter.empty else f"{part} = {parameter.default!r}")
    returned = f" -> {_type_name(annotations['return'])}" if "return" in annotations else ""
    return f"{tool}({', '.join(parts)}){returned}"


def _type_name(annotation: Any) -> str:
    """A type as it would be written, without the modules it comes from."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is ...:
        return "..."
    if annotation is type(None):
        return "None"
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return f"Literal[{', '.join(repr(value) for value in arguments)}]"
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(member) for member in arguments)
    if origin is not None and arguments:
        return f"{_type_name(origin)}[{', '.join(_type_name(argument) for argument in arguments)}]"
    return getattr(annotation, "__name__", None) or str(annotation)


def _problem(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{place} is missing"
    if detail["type"] == "extra_forbidden":
        return f"there is no parameter {place[:MAX_VALUE_CHARS]}"
    value = repr(detail["input"])
    value = value if len(value) <= MAX_VALUE_CHARS else f"{value[:MAX_VALUE_CHARS]}…"
    return f"{place} {detail['msg'].removeprefix('Input ')}, not {value}"
