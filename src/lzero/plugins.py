"""What a user brings: an object by its import path, "package.module:name"."""

import importlib
import sys
from typing import Any

from lzero.errors import ConfigError


def load_object(spec: str, *, key: str) -> Any:
    """The object that the value `spec` of the configuration's `key` names; modules of the working directory are found too.

    Raises ConfigError for a path of another form, a module that cannot be imported, a name it does not have.
    """
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f'{key}: {spec!r} is no import path; write "package.module:name"')
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ConfigError(f"{key}: cannot import {module_name!r} of {spec!r}: {error}") from error
    except AttributeError:
        raise ConfigError(f"{key}: the module {module_name!r} has no {name!r}") from None
