"""`lzero report`: evaluations as one HTML page, as Markdown, or as JSON in lm-eval's form.

lzero report runs/world-eval                                      Markdown, printed
lzero report runs/base-eval runs/trained-eval --out report.html --out report.md
lzero report runs/world-eval --out results.json
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from lzero.cli.arguments import takes, versions_of
from lzero.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Reported:
    """Options of `lzero report`."""

    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs, the baseline first.")]
    out: Annotated[
        list[Path] | None,
        Option(
            "--out",
            help="File to write; its ending says the form: .html, .md or .json (lm-eval's; one run). Repeatable.",
            show_default="Markdown, printed",
        ),
    ] = None
    update: Annotated[
        list[int] | None,
        Option("--update", min=0, help="Policy version to show, once for each run; default: the last evaluated."),
    ] = None
    title: Annotated[str, Option("--title", help="Heading of the report.")] = "Evaluation report"


@takes(Reported)
def report(wanted: Reported) -> None:
    """Report evaluations: scores with intervals, breakdowns, costs, failures, flipped questions, episodes, published figures.

    Example: lzero report runs/base-eval runs/trained-eval --out report.html --out report.md
    """
    renderers = {file: _renderer(file) for file in wanted.out or ()}
    versions = versions_of(wanted.runs, wanted.update)
    from lzero import __version__
    from lzero.eval.report.content import read_report
    from lzero.store.writing import write_whole

    found = read_report(wanted.runs, updates=versions)
    if not renderers:
        print(_renderer(Path("-.md"))(found, title=wanted.title, version=__version__), end="")
    texts = {file: render(found, title=wanted.title, version=__version__) for file, render in renderers.items()}
    for file, text in texts.items():
        write_whole(file, text.encode())
        print(f"written: {file}")


def _renderer(file: Path) -> "Callable[..., str]":
    """Return what renders a report for a file of this name. Raises ConfigError if it cannot be written."""
    from lzero.eval.report.lm_eval import render_lm_eval
    from lzero.eval.report.markdown import render_markdown
    from lzero.eval.report.page import render_page

    forms: dict[str, Callable[..., str]] = {".html": render_page, ".md": render_markdown, ".json": render_lm_eval}
    if file.suffix not in forms:
        raise ConfigError(f"--out {file}: name a file that ends in {', '.join(forms)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--out {file}: there is no directory {file.parent}")
    if file.exists():
        raise ConfigError(f"--out {file} exists: name a new file")
    return forms[file.suffix]
