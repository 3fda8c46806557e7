"""Writes the tables of estimators and losses in docs/training.md from their classes: `python docs/algorithm_tables.py`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from lzero.algo.algorithm import Algorithm
from lzero.algo.credit import Estimator, built_in_estimators
from lzero.algo.loss import built_in_losses
from lzero.config import AlgoConfig

PAGE = Path(__file__).parent / "training.md"
DEFAULT = AlgoConfig()


def with_tables(page: str) -> str:
    """Return the page with tables that match the classes."""
    for mark, lines in (("estimators", estimators()), ("losses", losses())):
        before, start, rest = page.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- end of {mark} -->")
        if not (start and end):
            raise ValueError(
                f"docs/training.md has no lines <!-- {mark} --> and <!-- end of {mark} -->: add them where the table goes"
            )
        page = before + start + "".join(f"{line}\n" for line in lines) + end + after
    return page


def estimators() -> Iterator[str]:
    """Yield the lines of the table of estimators, the default first."""
    yield "| `algo.estimator` | advantage of step t | mean and std over | `algo.estimator_options` | source |"
    yield "|---|---|---|---|---|"
    for each in _default_first(built_in_estimators(), DEFAULT.estimator):
        assert issubclass(each, Estimator)
        yield f"| {_name(each, DEFAULT.estimator)} | {each.formula} | {each.over} | {_options(each)} | {each.source} |"


def losses() -> Iterator[str]:
    """Yield the lines of the table of losses, the default first."""
    yield "| `algo.loss` | S, the surrogate | `algo.loss_options` | source |"
    yield "|---|---|---|---|"
    for each in _default_first(built_in_losses(), DEFAULT.loss):
        yield f"| {_name(each, DEFAULT.loss)} | {each.formula} | {_options(each)} | {each.source} |"


def _default_first(known: Mapping[str, type[Algorithm]], default: str) -> list[type[Algorithm]]:
    return sorted(known.values(), key=lambda each: (each.name != default, each.name))


def _name(algorithm: type[Algorithm], default: str) -> str:
    return f"`{algorithm.name}`" + (" (default)" if algorithm.name == default else "")


def _options(algorithm: type[Algorithm]) -> str:
    texts = algorithm.descriptions()
    fields = algorithm.model_fields.items()
    return "<br>".join(f"`{name}` = {_value(field.default)}: {texts[name]}" for name, field in fields) or "–"


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
