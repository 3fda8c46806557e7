"""A notebook gives the same in a session as in ipykernel, cell by cell, except for the differences in `docs/sandbox.md`."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from notebook_runs import Cell, Said, read_notebook, run_in_ipykernel, run_in_session

from lzero.config import ReplConfig
from lzero.repl import LocalPool, environment

pytestmark = pytest.mark.sandbox

DIRECTORY = Path(__file__).parent / "notebooks"
NOTEBOOKS = tuple(sorted(file.stem for file in DIRECTORY.glob("*.ipy")))
PACKAGES = ("matplotlib", "pyarrow", "pytest")
QUICK = ("errors", "language", "looking", "loops")
"""Notebooks that need no more than every session has, and take a second."""
SAMPLE = tuple(random.Random(12).sample(QUICK, 2))


@dataclass(frozen=True)
class Difference:
    """An allowed difference, and the sentence of the docs that explains it."""

    fields: tuple[str, ...]
    reason: str


BY_DESIGN = {
    "shown-errors": Difference(("status", "errors", "results"), "A cell that shows an error has the status `error`"),
    "own-tracebacks": Difference(("stderr", "errors", "stdout"), "Tracebacks are Python's own, without colours"),
    "usage-errors": Difference(("stderr", "errors"), "A magic that is used wrongly is an error output"),
    "help-is-text": Difference(("stdout",), "Help is printed"),
    "no-terminal": Difference(("stdout", "stderr"), "Commands write to files, not to a terminal"),
    "no-colours": Difference(("stdout", "results"), "The terminal is `dumb`"),
    "nothing-to-read": Difference(
        ("status", "stdout", "stderr", "errors"), "Whatever reads from a terminal finds its end"
    ),
    "no-page": Difference(
        ("status", "stdout", "stderr", "displays", "errors"), "There is neither a screen nor a web page"
    ),
    "no-stray-figure": Difference(("displays",), "`%run` shows the figures of its script and no empty one"),
    "no-command-line": Difference(("status", "stdout", "stderr", "results", "errors"), "`sys.argv` is `['']`"),
    "no-running-loop": Difference(
        ("status", "stderr", "results", "errors"), "No event loop runs in a cell without a top-level `await`"
    ),
    "no-history-file": Difference(("status", "stdout", "stderr", "errors"), "No history is kept beyond the session"),
    "home-is-the-workspace": Difference(("stdout", "results"), "The home directory is the workspace"),
    "ends-with-its-episode": Difference(("status", "stderr", "errors"), "`exit` and `quit` are errors"),
    "no-network": Difference(("errors",), "There is no network"),
    "no-pip": Difference(("stdout", "stderr"), "There is no pip"),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", SAMPLE)
async def test_a_sample_of_notebooks_comes_out_as_in_ipykernel(name: str, pool: LocalPool, tmp_path: Path) -> None:
    await compare(name, pool, ReplConfig(), tmp_path)


@pytest.mark.notebooks
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(900)
async def test_notebooks_come_out_as_in_ipykernel(tmp_path: Path) -> None:
    config = ReplConfig(packages=PACKAGES)
    environment.build(config)
    failures = []
    async with LocalPool(config) as pool:
        for name in NOTEBOOKS:
            try:
                await compare(name, pool, config, tmp_path / name)
            except AssertionError as error:
                failures.append(f"{name}:\n{error}")
    assert not failures, "\n\n".join(failures)


def test_the_docs_name_every_difference() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    assert [difference.reason for difference in BY_DESIGN.values() if difference.reason not in docs] == []
    used = {cell.differs for name in NOTEBOOKS for cell in cells_of(name)} - {""}
    assert used == set(BY_DESIGN)


def cells_of(name: str) -> list[Cell]:
    return read_notebook(DIRECTORY / f"{name}.ipy")


async def compare(name: str, pool: LocalPool, config: ReplConfig, directory: Path) -> None:
    """Fail with every cell that differs from ipykernel without a reason, or does not differ despite one."""
    cells = cells_of(name)
    (packages,) = environment.find(config).directory.glob("lib/python3*/site-packages")
    ours = await run_in_session(pool, cells)
    theirs = await run_in_ipykernel(cells, packages, directory)
    complaints = [
        complaint for cell, *said in zip(cells, ours, theirs, strict=True) for complaint in complain(cell, *said)
    ]
    assert not complaints, "\n".join(complaints)


def complain(cell: Cell, ours: Said, theirs: Said) -> list[str]:
    found = ours.differences(theirs, numbers_vary=cell.numbers_vary)
    allowed = BY_DESIGN[cell.differs].fields if cell.differs else ()
    lines = [
        f"  {name}: {getattr(ours, name)!r}\n  in ipykernel: {getattr(theirs, name)!r}"
        for name in found
        if name not in allowed
    ]
    if cell.differs and not found:
        lines.append(f"  {cell.differs}: it is the same as in ipykernel; take the mark away")
    return [f"{cell.source}\n{line}" for line in lines]
