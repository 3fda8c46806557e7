"""A typed function as a tool.

    @tool
    def add(a: int, b: int = 1) -> int:
        \"\"\"The sum of two numbers.\"\"\"
        return a + b

The model reads `add(a: int, b: int = 1) -> int`, the docstring, and the fields of models, dataclasses and other types that have a name
(`lzero.tools.signatures`). Its arguments are checked against the annotations, and converted where nothing is lost ("3" for an int, a
dict for a model, ISO text for a datetime). What the function returns becomes plain JSON data (`lzero.tools.values`).

A synchronous function runs in a thread of its own: it may block, but is not stopped when a deadline passes. An `async` one runs on the
event loop that all episodes share: it must not block. A parameter annotated `ToolContext` receives the context, and is not shown.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

import pydantic

from lzero.blocking import in_thread
from lzero.errors import ToolError
from lzero.plugins import called_function
from lzero.protocols import ToolContext
from lzero.tools.names import name_problem
from lzero.tools.signatures import read_signature, refusal
from lzero.tools.values import as_json, to_json
from lzero.types import Json

P = ParamSpec("P")
R = TypeVar("R")
MAX_VALUES = 10_000
"""The most values in the arguments of one call. Checking blocks the event loop, even from a thread, for some microseconds a value."""
MAX_PROBLEMS = 5
"""Maximum number of wrong arguments in one error."""
MANY_PROBLEMS = 100
"""With more problems than this, only the first items of lists are checked for a description, because describing is slow."""
FIRST_ITEMS = 10
"""Number of these first items."""
MAX_ERROR_CHARS = 200
"""The most characters of an exception of a type's own conversion."""
MAX_VALUE_CHARS = 80
"""The most characters of a wrong argument in the error."""


class FunctionTool(Generic[P, R]):
    """A `protocols.Tool` made by `@tool`; called directly, it is still the original function."""

    def __init__(self, function: Callable[P, R], *, name: str | None = None) -> None:
        """Raise TypeError, which says what is missing, for a function that cannot be a tool."""
        if problem := refusal(function):
            raise TypeError(f"{function!r:.100} is {problem}")
        self.function = function
        self.name = _name(function) if name is None else name
        if problem := name_problem(self.name):
            raise TypeError(f"a tool cannot be called {self.name!r}: it {problem}; write @tool(name=...)")
        found = read_signature(function, self.name)
        self.parameters = found.parameters
        self.signature = found.text
        self.description = "\n".join((found.text, found.purpose, *found.notes))
        self._context_name = found.context_name
        self._arguments = found.arguments

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Call the function with checked arguments. Raises ToolError: the agent's fault for arguments that do not fit, the tool's for a
        result that is not JSON. Exceptions of the function pass through unchanged."""
        values = self._checked(arguments)
        if self._context_name:
            values[self._context_name] = context
        function: Callable[..., Any] = self.function
        if inspect.iscoroutinefunction(inspect.unwrap(called_function(function))):
            return await to_json(await function(**values), tool=self.name)

        def answer() -> Json | Awaitable[Any]:  # converted in the thread, because a generator runs the tool's code
            result = function(**values)
            return result if inspect.isawaitable(result) else as_json(result, tool=self.name)

        result = await in_thread(answer)
        return await to_json(await result, tool=self.name) if inspect.isawaitable(result) else result

    def _checked(self, arguments: dict[str, Json]) -> dict[str, Any]:
        if _has_too_many(arguments):
            raise ToolError(
                f"{self.name} takes at most {MAX_VALUES:,} values in one call: give it fewer", fault="agent"
            )
        try:
            checked = self._arguments.model_validate(arguments)
        except pydantic.ValidationError as error:
            described = [_problem(detail) for detail in self._details(error, arguments)[:MAX_PROBLEMS]]
            if (more := error.error_count() - len(described)) > 0:
                described.append(f"and {more} more" if described else f"{more} values do not fit")
            raise ToolError(
                f"{self.name}: {'; '.join(described)}. It is called as {self.signature}", fault="agent"
            ) from None
        except Exception as error:  # raised by a type's own conversion, as of a pattern or a path
            raise ToolError(
                f"{self.name}: its arguments cannot be converted: {type(error).__name__}: {error!s:.{MAX_ERROR_CHARS}}. It is called as "
                f"{self.signature}",
                fault="agent",
            ) from error
        fields = type(checked).model_fields
        return {str(fields[field].alias): getattr(checked, field) for field in checked.model_fields_set}

    def _details(self, error: pydantic.ValidationError, arguments: dict[str, Json]) -> Sequence[Any]:
        """Return all problems, or the first ones if there are more than MANY_PROBLEMS."""
        if error.error_count() > MANY_PROBLEMS:
            first = {
                name: value[:FIRST_ITEMS] if isinstance(value, list) else value for name, value in arguments.items()
            }
            try:
                self._arguments.model_validate(first)
            except pydantic.ValidationError as shorter:
                error = shorter
            else:
                return ()
        return error.errors(include_url=False)


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(*, name: str) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(function: Callable[P, R] | None = None, /, *, name: str | None = None) -> Any:
    """Make a tool of a function, sync or async, a method of an object, a partial, or a callable object: `@tool`, or `@tool(name="add")`.

    Raises TypeError, which says what is missing: an annotation, a docstring, a name.
    """
    if function is None:
        return lambda function: FunctionTool(function, name=name)
    return FunctionTool(function, name=name)


def _name(function: Callable[..., object]) -> str:
    """Return the name of a function, or of a partial's function."""
    name = getattr(getattr(function, "func", function), "__name__", None)
    if not isinstance(name, str):
        raise TypeError(f"{function!r:.100} has no name of its own: write tool(name=...)(...)")
    return name


def _has_too_many(arguments: dict[str, Json]) -> bool:
    """Return whether the arguments have more than MAX_VALUES values, nested ones included. Stops counting there."""
    level: list[Json] = [arguments]
    count = 0
    while level and count <= MAX_VALUES:
        level = [inner for value in level if isinstance(value, dict | list) for inner in _inside(value)]
        count += len(level)
    return count > MAX_VALUES


def _inside(value: dict[str, Json] | list[Json]) -> Iterable[Json]:
    return value.values() if isinstance(value, dict) else value


def _problem(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{place} is missing"
    if detail["type"] == "extra_forbidden":
        return f"there is no parameter {place[:MAX_VALUE_CHARS]}"
    value = repr(detail["input"])
    value = value if len(value) <= MAX_VALUE_CHARS else f"{value[:MAX_VALUE_CHARS]}…"
    return f"{place} {detail['msg'].removeprefix('Input ')}, not {value}"
