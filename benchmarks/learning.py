"""Whether it learns, and whether it collapses: `python benchmarks/learning.py estimators | ablation [--seeds 0 1 2] [--into DIRECTORY]`.

    estimators    the demo by each estimator of credit; a table of the held-out score after 4, 8 and 12 updates
    ablation      L0's: hard questions with and without dynamic sampling; two curves of the training score

Every run is an `lzero train` of its own, kept below DIRECTORY; one that is there is not made again, and one that was stopped goes on.
Three seeds of every estimator take most of an hour on two cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lzero.store import RunDirectory
from lzero.view.curve import read_curves

ESTIMATORS = ("reinforce++", "reinforce++_baseline", "grpo", "rloo", "gigpo")
EVALUATED = (4, 8, 12)
"""Updates after which the table looks at the held-out score."""
CRITIC = ("critic.kind=model", "critic.lr=1e-3", "critic.epochs=4")
EXTRA = {"dr_grpo": ("algo.average=constant",), "gae": CRITIC, "bilevel_gae": CRITIC}
"""What an estimator is meant to go with."""
HARD = ("tasks.hops=[2,3]", "train.updates=40", "eval.every=10", "rollout.tasks_per_update=32")

Metrics = Sequence[Mapping[str, Any]]
"""The lines of a run's metrics.jsonl."""


@dataclass(frozen=True)
class Series:
    """One line of a comparison: its name, and what sets it apart."""

    name: str
    changes: tuple[str, ...]


def estimators(names: Sequence[str]) -> list[Series]:
    return [
        Series(name, (f"algo.estimator={name}", f"eval.every={EVALUATED[0]}", *EXTRA.get(name, ()))) for name in names
    ]


def ablation() -> list[Series]:
    return [
        Series("with dynamic sampling", (*HARD, "rollout.drop_uniform=0.5")),
        Series("without", (*HARD, "rollout.drop_uniform=0.0")),
    ]


def metrics_of(series: Series, seed: int, into: Path) -> Metrics:
    """Of one run, which is begun or resumed if it is not there or not whole."""
    path = into / f"{series.name.replace(' ', '-').replace('+', 'p')}-{seed}"
    arguments = ("--resume", str(path)) if path.exists() else (*series.changes, f"run.seed={seed}", f"run.dir={path}")
    if not path.exists() or not _is_whole(path):
        print(f"{series.name}, seed {seed}: lzero train {' '.join(arguments)}", file=sys.stderr, flush=True)
        command = [sys.executable, "-c", "from lzero.cli import main; main()", "train", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return RunDirectory.open(path).read_metrics()


def _is_whole(path: Path) -> bool:
    run = RunDirectory.open(path)
    held_out = read_curves(run.read_metrics())[0].held_out
    return bool(held_out) and held_out[-1][0] >= run.config.train.updates


def estimator_table(found: Mapping[str, Sequence[Metrics]]) -> Iterator[str]:
    yield "| estimator | " + " | ".join(f"after {version} updates" for version in EVALUATED) + " | seconds |"
    yield "|---" * (len(EVALUATED) + 2) + "|"
    for name, runs in found.items():
        curves = [dict(read_curves(metrics)[0].held_out) for metrics in runs]
        cells = [", ".join(f"{curve[version]:.3f}" for curve in curves) for version in EVALUATED]
        seconds = statistics.median(sum(line.get("time/update_s", 0.0) for line in metrics) for metrics in runs)
        yield f"| {name} | {' | '.join(cells)} | {seconds:.0f} |"


def draw(found: Mapping[str, Sequence[Metrics]], file: Path) -> None:
    """The training score of each series, a line a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for color, (name, runs) in zip(("#2a6fdb", "#e0772a"), found.items(), strict=True):
        for number, metrics in enumerate(runs):
            points = read_curves(metrics)[0].training
            label = name if number == 0 else None
            axes.plot(*zip(*points, strict=True), color=color, alpha=0.8, linewidth=1.2, label=label)
    axes.set_xlabel("update")
    axes.set_ylabel("exact match of training episodes")
    axes.set_ylim(0.0, 1.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("estimators", "ablation"))
    parser.add_argument("--only", nargs="+", metavar="ESTIMATOR", help="some of the estimators")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--into", type=Path, default=Path("runs/learning"))
    parser.add_argument("--json", action="store_true", help="print the curves of held-out scores")
    arguments = parser.parse_args()
    if arguments.only and arguments.what != "estimators":
        parser.error("--only names estimators")
    series = estimators(arguments.only or ESTIMATORS) if arguments.what == "estimators" else ablation()
    into = arguments.into / arguments.what
    found = {each.name: [metrics_of(each, seed, into) for seed in arguments.seeds] for each in series}
    if arguments.json:
        print(
            json.dumps({name: [read_curves(metrics)[0].held_out for metrics in runs] for name, runs in found.items()})
        )
    elif arguments.what == "estimators":
        print("\n".join(estimator_table(found)))
    else:
        draw(found, into / "ablation.png")
        print(into / "ablation.png")


if __name__ == "__main__":
    main()
