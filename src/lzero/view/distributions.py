"""Draw how often values occur, and how numbers are distributed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.errors import StoreError
from lzero.text import counted, one_line
from lzero.view.curve import ACCENT, GRID, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS, BINS, COLUMNS = 12, 40, 3
"""Values of a bar chart, bins of a histogram, charts in a row."""
LABEL_CHARS = 24


def draw_distributions(
    bars: Mapping[str, Mapping[str, int]], histograms: Mapping[str, Mapping[float, int]], file: Path
) -> None:
    """Write one chart for each name, in the format of the file's suffix. `bars`: value → rows; `histograms`: number → rows.

    Raises StoreError, also for a suffix that names no format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_charts = len(bars) + len(histograms)
    num_rows = max(1, -(-num_charts // COLUMNS))
    figure = Figure(figsize=(4.2 * COLUMNS, 2.9 * num_rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    places = figure.subplots(num_rows, COLUMNS, squeeze=False).flatten()
    for axes, (name, counts) in zip(places, bars.items(), strict=False):
        _bars(axes, name, counts)
    for axes, (name, numbers) in zip(places[len(bars) :], histograms.items(), strict=False):
        _histogram(axes, name, numbers)
    for axes in places[num_charts:]:
        axes.set_visible(False)
    try:
        figure.savefig(file, dpi=140, metadata={"Date": None} if file.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot draw {file}: {error}") from error


def _bars(axes: "Axes", name: str, counts: Mapping[str, int]) -> None:
    shown = dict(sorted(counts.items(), key=lambda each: -each[1])[:BARS])
    rest = len(counts) - len(shown)
    labels = [one_line(value)[:LABEL_CHARS].replace("$", r"\$") or "(none)" for value in shown]
    axes.barh(range(len(shown)), list(shown.values()), color=ACCENT, height=0.7)
    axes.set_yticks(range(len(shown)), labels)
    axes.invert_yaxis()
    _frame(axes, name + (f", and {counted(rest, 'more value')}" if rest else ""))


def _histogram(axes: "Axes", name: str, counts: Mapping[float, int]) -> None:
    axes.hist(list(counts), bins=min(BINS, max(1, len(counts))), weights=list(counts.values()), color=ACCENT)
    _frame(axes, name)


def _frame(axes: "Axes", title: str) -> None:
    axes.set_title(title.replace("$", r"\$"), loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.tick_params(colors=MUTED, length=0, labelsize=8)
    axes.grid(axis="x", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
