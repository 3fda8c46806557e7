"""Draw the learning curve of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.errors import StoreError
from lzero.store import RunDirectory
from lzero.text import counted
from lzero.types import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1f2430", "#8a90a0", "#e6e8ee"
ACCENT = "#2a6fdb"
HOP_COLORS = ("#2a6fdb", "#e0772a", "#2f9e6e", "#a04fc4", "#c43d5a")
TRAINING_NOTE = "thin: training episodes, sampled · dots: held-out tasks, greedy"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points (policy version, score) in order."""

    held_out: tuple[tuple[int, float], ...]
    training: tuple[tuple[int, float], ...]


def read_curves(metrics: Sequence[Mapping[str, Json]]) -> tuple[Curve, dict[int, Curve]]:
    """Return the curve of the score, and one for each number of hops, from the lines of metrics.jsonl."""
    hops = sorted(
        {
            int(name.removeprefix("score_").removesuffix("_hops"))
            for line in metrics
            for name in line
            if name.startswith("score_") and name.endswith("_hops")
        }
    )
    return _curve(metrics, ""), {count: _curve(metrics, f"_{count}_hops") for count in hops}


def draw_curve(path: Path) -> Path:
    """Write `learning-curve.png` and `.svg` into a run's directory, and return the path of the first.

    Raises StoreError, also if there is no score to draw yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = RunDirectory.open(path)
    whole, by_hops = read_curves(run.read_metrics())
    if not whole.held_out and not whole.training:
        raise StoreError(f"{path / 'metrics.jsonl'} holds no score to draw yet")
    figure = Figure(figsize=(10.5, 4.2) if by_hops else (6.4, 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if by_hops else 1, sharey=True, squeeze=False)[0]
    _frame(axes[0], "Score")
    axes[0].set_ylabel(run.config.reward.score_name, color=MUTED)
    _draw(axes[0], whole, ACCENT)
    if by_hops:
        _frame(axes[1], "Score by hops")
        for number, (hops, curve) in enumerate(by_hops.items()):
            label = counted(hops, "hop")
            _draw(axes[1], curve, HOP_COLORS[number % len(HOP_COLORS)], label)
        axes[1].legend(loc="lower right", frameon=False, labelcolor=INK, fontsize=9)
    figure.supxlabel(f"updates   ({TRAINING_NOTE})", color=MUTED, fontsize=9)
    for suffix in ("png", "svg"):
        file = path / f"learning-curve.{suffix}"
        try:
            figure.savefig(file, dpi=160, metadata={"Date": None} if suffix == "svg" else None)
        except OSError as error:
            raise StoreError(f"cannot write {file}: {error.strerror or error}") from error
        figure.set_layout_engine("none")  # the first file's layout also serves the second
    return path / "learning-curve.png"


def _curve(metrics: Sequence[Mapping[str, Json]], suffix: str) -> Curve:
    return Curve(
        held_out=_points(metrics, "eval", f"score{suffix}"),
        training=_points(metrics, "train", f"rollout/score{suffix}"),
    )


def _points(metrics: Sequence[Mapping[str, Json]], phase: str, name: str) -> tuple[tuple[int, float], ...]:
    points: dict[int, float] = {}
    for line in metrics:
        update, value = line.get("update"), line.get(name)
        if line.get("phase") == phase and isinstance(update, int) and isinstance(value, int | float):
            points[update] = float(value)
    return tuple(sorted(points.items()))


def _frame(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=10)
    axes.set_ylim(-0.02, 1.04)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _draw(axes: "Axes", curve: Curve, color: str, label: str | None = None) -> None:
    if curve.training:
        axes.plot(*zip(*curve.training, strict=True), color=color, linewidth=1.4, alpha=0.55)
    if not curve.held_out:
        return
    axes.plot(
        *zip(*curve.held_out, strict=True),
        color=color,
        linestyle=(0, (1, 2))
        if len(curve.held_out) > 2
        else "none",  # a line through two points would suggest more than was measured
        linewidth=1.6,
        marker="o",
        markersize=7,
        markeredgecolor="white",
        label=label,
        clip_on=False,
        zorder=3,
    )
    if label is not None:
        return
    for update, score in dict(
        (curve.held_out[0], curve.held_out[-1])
    ).items():  # one curve alone has room for its numbers
        axes.annotate(
            f"{score:.2f}",
            (update, score),
            textcoords="offset points",
            xytext=(0, -17 if score > 0.1 else 10),
            ha="center",
            color=INK,
            fontweight="bold",
            fontsize=10,
        )
