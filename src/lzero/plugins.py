"""Loads a user's own object by its import path, "package.module:name"."""

import importlib
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lzero.errors import ConfigError, LzeroError

_OURS = str(Path(__file__).parent)


def load_object(spec: str, *, key: str) -> Any:
    """Return the object that the value `spec` of the configuration's `key` names; modules of the working directory are found too.

    Raises ConfigError for a malformed path, for a module whose import raises anything, and for a name that the module lacks.
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
    except BaseException as error:  # a module runs as it is imported: sys.exit() in it ends nothing of ours
        raise ConfigError(f"{key}: cannot import {module_name!r} of {spec!r}: {described(error)}") from error
    if found is module:
        near = get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{key}: the module {module_name!r} has no {name!r}{hint}")
    return found


def described(error: BaseException) -> str:
    """Return type and message of an exception, with the user's file and line that raised it."""
    if isinstance(error, ImportError | LzeroError):
        return str(error)
    passed = traceback.extract_tb(error.__traceback__)
    frames = [each for each in passed if not (each.filename.startswith(_OURS) or "site-packages" in each.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    words = "".join(traceback.format_exception_only(error)[-1:]).strip()
    return words + ("" if isinstance(error, SyntaxError) else place)
