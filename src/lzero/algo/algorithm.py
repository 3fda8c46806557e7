"""The base class of estimators and losses, and the search for one by its name or import path.

class MyEstimator(Estimator):            # in a package of yours
    scale: float = 1.0                   # an option
    ...

[algo]
estimator = "my_package.credit:MyEstimator"
estimator_options = {scale = 2.0}
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, TypeVar

from lzero.config import Section
from lzero.errors import ConfigError, LzeroError
from lzero.plugins import described, load_object, make_plugin, nearest_name

if TYPE_CHECKING:
    from lzero.config import Config


class Algorithm(Section):
    """Base class of estimators and losses. Its fields are its options; pydantic validates them."""

    name: ClassVar[str] = ""
    """Name in a configuration; empty for a class that is named by its import path."""
    source: ClassVar[str] = ""
    """The paper or program that defines it."""
    formula: ClassVar[str] = ""
    """Formula that it computes, for the documentation."""
    bears_lag: ClassVar[bool] = True
    """Whether it is correct for tokens that an earlier policy has drawn (`rollout.max_lag`)."""

    def complaints(self, config: "Config") -> Iterator[str]:
        """Yield an error message for each setting that contradicts this algorithm. Training starts only if there is none."""
        yield from ()

    def notes(self, config: "Config") -> Iterator[str]:
        """Yield a message for each of its options that has no effect in this run."""
        yield from ()


A = TypeVar("A", bound=Algorithm)


@contextmanager
def blamed(algorithm: Algorithm, kind: type[LzeroError]) -> Iterator[None]:
    """Raise an error of this kind, which names the algorithm and the line of its code, for an exception in the block."""
    try:
        yield
    except LzeroError:
        raise
    except Exception as error:
        raise kind(f"{type(algorithm).__module__}.{type(algorithm).__name__} raised {described(error)}") from error


def built_in(kind: type[A], package: ModuleType) -> dict[str, type[A]]:
    """Return name → class for the subclasses of `kind` that the modules of `package` define, ordered by module name."""
    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)
    ]
    found = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    ]
    return {each.name: each for each in found}


def find(kind: type[A], known: Mapping[str, type[A]], name: str, options: Mapping[str, object], *, key: str) -> A:
    """Return the algorithm that `name`, the value of the configuration's `key`, selects: one of the `known`, or an import path.

    Its options are the values of `{key}_options`. Raises ConfigError for an unknown name, for an object that is not a subclass of `kind` or
    lacks a method of it, and for options that the class does not have or rejects.
    """
    setting = f'{key} = "{name}"'
    if ":" not in name and name not in known:
        raise ConfigError(f"{setting}: {nearest_name(name, known, kind='Class')}")
    found = load_object(name, key=key) if ":" in name else known[name]
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(f"{setting} is not a subclass of {kind.__module__}.{kind.__name__}")
    if inspect.isabstract(found):
        raise ConfigError(f"{setting} does not define {', '.join(sorted(found.__abstractmethods__))}")
    made: A = make_plugin(found, options=options, setting=setting, key=f"{key}_options")
    return made
