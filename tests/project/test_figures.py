"""Scores that the README and the recipes' page quote are those of docs/benchmarks.md, which holds every measured figure once."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTING = ("README.md", "recipes/README.md")
SCORE = re.compile(r"\b[01]\.\d{3}\b")
DEMO_SEED = "0"
"""The seed of `make demo`, whose output the README shows."""


def text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def prose(file: str) -> str:
    """Return the file without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(file), flags=re.DOTALL | re.MULTILINE)


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def row_of_seed(seed: str) -> list[str]:
    """Return seed, before, after, after by hops from a row of the demo's table."""
    _, _, demo = text("docs/benchmarks.md").partition("## Learning: the demo")
    return next(cells(row) for row in demo.splitlines() if cells(row)[0] == seed)


@pytest.mark.parametrize("file", QUOTING)
def test_a_score_that_is_quoted_is_one_of_the_benchmarks(file: str) -> None:
    measured = set(SCORE.findall(text("docs/benchmarks.md")))
    assert set(SCORE.findall(prose(file))) <= measured


def test_the_readme_quotes_the_demo_of_each_seed() -> None:
    quoted = SCORE.findall(prose("README.md"))
    assert {row_of_seed(seed)[2] for seed in "012"} <= set(quoted)


def test_the_demo_in_the_readme_is_the_run_in_the_benchmarks() -> None:
    shown = dict(re.findall(r"^(all|\d hops?) +(\d\.\d{3} +\d\.\d{3}) ", text("README.md"), re.MULTILINE))
    _, before, after, by_hops = row_of_seed(DEMO_SEED)
    assert shown["all"].split() == [before, after]
    assert [shown[hops].split()[1] for hops in ("1 hop", "2 hops", "3 hops")] == by_hops.split(", ")
