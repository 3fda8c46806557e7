"""Load plug-ins: a user's object by its import path "package.module:name", called with its options."""

import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import pydantic

from lzero.config.base import wrong_value
from lzero.errors import ConfigError, LzeroError

_OURS = str(Path(__file__).parent)


def load_object(spec: str, *, key: str) -> Any:
    """Return the object that the value `spec` of the configuration's `key` names; modules of the working directory are found, too.

    Raises ConfigError for a malformed path, a module whose import raises any exception, and a name that the module lacks.
    """
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f'{key}: {spec!r} is not an import path: write "package.module:name"')
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name, module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module runs when it is imported, and its sys.exit() must not end lzero
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        hint = "; modules are looked for in the working directory, PYTHONPATH and the environment" if is_missing else ""
        raise ConfigError(f"{key}: cannot import {module_name!r} of {spec!r}: {described(error)}{hint}") from error
    if found is module:
        near = get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{key}: the module {module_name!r} has no {name!r}{hint}")
    return found


def find_plugin(name: str, known: Mapping[str, str], *, key: str) -> Any:
    """Return the object that `name`, the value of the configuration's `key`, selects: one of the `known` (name → import path), or an
    import path of the user's. Raises ConfigError for an unknown name, and as `load_object` does."""
    if ":" not in name and name not in known:
        raise ConfigError(f'{key} = "{name}": {nearest_name(name, known)}')
    return load_object(known.get(name, name), key=key)


def nearest_name(name: str, known: Iterable[str], *, kind: str = "name") -> str:
    """Return the end of a message on an unknown plug-in: the nearest name, and all known names."""
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.0)
    return f'did you mean "{near[0]}"? It is one of {", ".join(known)}, or an import path "package.module:{kind}"'


def valid_options(
    factory: Callable[..., Any], options: Mapping[str, Any], *, setting: str, key: str, given: int = 0
) -> dict[str, Any]:
    """Return `options`, validated and converted by the factory's own model.

    The model is the factory itself, if it is a pydantic model, or else has the annotations and defaults of its parameters. lzero passes the
    first `given` parameters, which are not options. A parameter `**others` takes options that the factory validates itself. `setting`
    names the plug-in in messages, as `environment.use = "mine:World"`; `key` is the key of the options. Raises ConfigError for an
    option that the plug-in does not have, lacks or rejects.
    """
    model = _model_of(factory, setting, given)
    try:
        valid = model.model_validate(dict(options))
    except pydantic.ValidationError as error:
        raise ConfigError(
            "\n".join(_explain(detail, key, setting, tuple(model.model_fields)) for detail in error.errors())
        ) from None
    names = model.model_fields if given or model is not factory else valid.model_fields_set
    return {name: getattr(valid, name) for name in names} | (valid.model_extra or {})


def make_plugin(factory: Callable[..., Any], *given: Any, options: Mapping[str, Any], setting: str, key: str) -> Any:
    """Return `factory(*given, **options)`, with validated options. Raises ConfigError as `valid_options` does, and for any exception of the
    factory."""
    valid = valid_options(factory, options, setting=setting, key=key, given=len(given))
    try:
        return factory(*given, **valid)
    except LzeroError:
        raise
    except Exception as error:
        raise ConfigError(f"{setting} raised {described(error)}") from error


def _model_of(factory: Callable[..., Any], setting: str, given: int) -> type[pydantic.BaseModel]:
    """Return the factory if it is a model, or else a model with a field for each named parameter after the first `given`."""
    if isinstance(factory, type) and issubclass(factory, pydantic.BaseModel):
        return factory
    if not callable(factory):
        raise ConfigError(f"{setting} is {factory!r:.80}: name a class or a function")
    try:
        parameters = list(inspect.signature(factory).parameters.values())
        hints = get_type_hints(called_function(factory), include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"{setting}: the types of its parameters cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    takes_others = any(each.kind is each.VAR_KEYWORD for each in parameters)
    for each in parameters[given:]:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        if each.kind is each.POSITIONAL_ONLY:
            raise ConfigError(
                f"{setting}: options are given by name, and its parameter {each.name!r} has none to callers"
            )
        fields[each.name] = (hints.get(each.name, Any), ... if each.default is each.empty else each.default)
    settings = pydantic.ConfigDict(extra="allow" if takes_others else "forbid", arbitrary_types_allowed=True)
    return pydantic.create_model("Options", __config__=settings, **fields)


def called_function(called: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that a call runs: that of a partial, a class's `__init__`, or an object's `__call__`."""
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isroutine(called):
        return called
    owner, name = (called, "__init__") if isinstance(called, type) else (type(called), "__call__")
    found: Callable[..., Any] = getattr(owner, name)
    return found


def _explain(detail: Mapping[str, Any], key: str, setting: str, options: Sequence[str]) -> str:
    place = ".".join(map(str, (key, *detail["loc"])))
    has = f"{setting} has " + (f"the options {', '.join(options)}" if options else "no options")
    if detail["type"] == "extra_forbidden":
        near = get_close_matches(str(detail["loc"][-1]), options, n=1)
        return f"unknown key {place!r}: {has}" + (f"; did you mean {near[0]!r}?" if near else "")
    return f"missing key {place!r}: {has}" if detail["type"] == "missing" else wrong_value(detail, place)


def described(error: BaseException) -> str:
    """Return type and message of an exception, with the user's file and line that raised it."""
    if isinstance(error, ImportError | LzeroError):
        return str(error)
    passed = traceback.extract_tb(error.__traceback__)
    frames = [each for each in passed if not (each.filename.startswith(_OURS) or "site-packages" in each.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    words = "".join(traceback.format_exception_only(error)[-1:]).strip()
    return words + ("" if isinstance(error, SyntaxError) else place)
