"""`lzero plan`: what a run needs and how fast it will be, before anything is bought or started."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lzero.cli.arguments import Arguments, print_json, read_config, say, takes
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from lzero.config import Config
    from lzero.plan import Plan
    from lzero.plan.devices import Device
    from lzero.plan.memory import Part
    from lzero.plan.workload import Workload

MUCH_FASTER = 0.9
"""A placement is suggested if its update takes at most this share of the configured one's."""


@dataclass(frozen=True)
class _Options:
    arguments: Arguments = None
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs that there are.")] = 1
    gpu: Annotated[
        str, typer.Option(help="Their type: A100, H100, H200 or B200. Without it, this machine is measured.")
    ] = ""
    gpu_memory: Annotated[float | None, typer.Option(min=1.0, help="Memory of each, in GB.")] = None
    like: Annotated[Path | None, typer.Option(help="Take the sizes of episodes from this recorded run.")] = None
    steps: Annotated[float | None, typer.Option(min=1.0, help="Mean steps of an episode.")] = None
    prompt_tokens: Annotated[float | None, typer.Option(min=1.0, help="Tokens of a first prompt.")] = None
    reply_tokens: Annotated[float | None, typer.Option(min=1.0, help="Mean tokens of a reply.")] = None
    output_tokens: Annotated[float | None, typer.Option(min=0.0, help="Mean tokens of an output.")] = None
    cell_s: Annotated[float | None, typer.Option(min=0.0, help="Mean seconds of a cell with its tools.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of tables.")] = False


@takes(_Options)
def plan(options: _Options) -> None:
    """Predict memory, speed and the bottleneck of a training run from the model's sizes and stated constants.

    Nothing is loaded: `model.path` may be a name such as Qwen3-4B. Figures of GPUs follow from data sheets; none was measured.

    Example: lzero plan recipes/qa-qwen3-4b.toml --gpus 8 --gpu H100

    Exits with code 1 if the run does not fit into the devices.
    """
    from rich.console import Console

    from lzero.plan import fastest, make_plan, uncounted
    from lzero.plan.architecture import architecture_of
    from lzero.plan.devices import device_named
    from lzero.plan.placement import configured

    config = read_config(options.arguments)
    gpu = options.gpu
    model = architecture_of(config.model.path)
    work = _workload(options, config, "cuda" if gpu else _place(options, config))
    device = device_named(gpu, memory_gb=options.gpu_memory) if gpu else _measured(config, work)
    made = make_plan(config, model, work, device, placement=configured(config), devices=options.gpus)
    best = fastest(config, model, work, device, devices=options.gpus) if options.gpus > 1 else None
    unused = list(uncounted(config, model, device))
    if options.json:
        print_json(_as_json(made, best) | {"uncounted": unused})
    else:
        _show(Console(), config, made, best)
        if unused:
            say(Console(), f"Set, but without effect on this plan: {', '.join(unused)}.")
    if made.problems:
        raise typer.Exit(1)


def _workload(options: _Options, config: "Config", place: str) -> "Workload":
    """Return the sizes of episodes: assumed or recorded ones, changed by the options that are given. `place`: "cpu" or "cuda"."""
    from lzero.plan.workload import assumed, recorded

    work = assumed(config, device=place)
    if options.like is not None:
        from lzero.store import RunDirectory, read_records

        metrics = RunDirectory.open(options.like).read_metrics()
        last = max((int(str(line["update"])) for line in metrics if line["phase"] == "train"), default=0)
        records = read_records(options.like, phase="train", update=last)
        work = recorded(metrics, [episode for record in records for episode in record.episodes])
    names = ("steps", "prompt_tokens", "reply_tokens", "output_tokens", "cell_s")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return replace(work, **given, source=f"{work.source}; given: {', '.join(given)}") if given else work


def _place(options: _Options, config: "Config") -> str:
    """Return where this machine computes, "cpu" or "cuda". Raises ConfigError for options that speak of other machines."""
    from lzero.extras import need
    from lzero.models import select_device

    if options.gpus > 1 or options.gpu_memory is not None:
        raise ConfigError("--gpus and --gpu-memory need --gpu: without it, this machine is measured, with one device")
    need("train", what="measuring this machine")
    return select_device(config.model.device)


def _measured(config: "Config", work: "Workload") -> "Device":
    """Return this machine's device."""
    from lzero.plan.architecture import architecture_of
    from lzero.plan.measure import measured_device

    return measured_device(config, architecture_of(config.model.path), work)


def _show(console: "Console", config: "Config", made: "Plan", best: "Plan | None") -> None:
    from lzero.plan.memory import gigabytes, total

    work, sampled, learned = made.work, made.sampling, made.learning
    whose = "measured on this machine" if made.device.is_measured else "from data sheets; not measured"
    say(console, f"{made.model.name}, {made.model.parameters:,} parameters, {config.model.dtype}; {made.placement}")
    if not made.device.is_measured:
        seen = (
            "by a mask, over whole rows" if config.train.attention == "mask" else "by a kernel, over what a token sees"
        )
        say(console, f"Attention of the learner: {seen} (train.attention = {config.train.attention}).")
    say(console, f"Rates of {made.device.name}: {whose}. Sizes of episodes: {work.source}.")
    where = "the device" if made.placement.shared else "each device that learns"
    _table(console, f"memory of {where}, of {gigabytes(made.device.memory)}", made.trainer)
    if made.engine:
        _table(console, f"memory of each device that samples, of {gigabytes(made.device.memory)}", made.engine)
    _table(console, "memory of controller and REPLs", made.host)
    rows = [
        (
            "an episode",
            f"{work.steps:.1f} steps, {work.tokens:,.0f} tokens, of which {work.action_tokens:,.0f} sampled",
        ),
        (
            "episodes in flight, REPLs",
            f"{sampled.in_flight:,}, with {gigabytes(total(made.host))} and {made.repl_cores:.1f} cores",
        ),
        (
            "an engine",
            f"decodes {sampled.decoding:,.1f} sequences at once, {sampled.fitting:,} fit; {1e3 * sampled.token_s:,.1f} ms a token",
        ),
        ("sampling", f"{sampled.tokens_per_s:,.0f} tokens/s, {sampled.steps_per_s:,.1f} steps/s"),
        ("learning", f"{learned.tokens_per_s:,.0f} tokens/s"),
        (
            "seconds of an update",
            f"{made.update_s:,.1f}: rollout {sampled.rollout_s:,.1f}, scores {learned.score_s:,.1f}, "
            f"optimiser {learned.optimise_s:,.1f}, transfer {learned.transfer_s:,.1f}, records {learned.record_s:,.1f}",
        ),
        (
            "the run",
            f"{made.run_s / 3600:,.1f} hours for {config.train.updates} updates, evaluations left out",
        ),
        ("bottleneck", made.bottleneck),
    ]
    for name, text in rows:
        say(console, f"{name:<26} {text}")
    if best and (made.problems or best.update_s <= MUCH_FASTER * made.update_s):
        say(console, f"faster: {best.placement}: {best.update_s:,.1f} s an update ({best.bottleneck})")
    for problem in made.problems:
        say(console, f"does not fit: {problem}")


def _table(console: "Console", title: str, parts: "Sequence[Part]") -> None:
    from lzero.plan.memory import gigabytes, total

    say(console, f"{title}: {gigabytes(total(parts))}")
    for part in parts:
        say(console, f"  {part.name:<18} {gigabytes(part.size):>12}  {part.why}")


def _as_json(made: "Plan", best: "Plan | None") -> dict[str, Any]:
    from dataclasses import asdict

    from lzero.plan.memory import total

    return {
        "model": made.model.name,
        "parameters": made.model.parameters,
        "work": asdict(made.work),
        "device": made.device.name,
        "is_measured": made.device.is_measured,
        "placement": asdict(made.placement),
        "memory": {
            name: {part.name: part.size for part in getattr(made, name)} for name in ("trainer", "engine", "host")
        },
        "memory_trainer": total(made.trainer),
        "sampling": asdict(made.sampling),
        "learning": asdict(made.learning),
        "update_s": made.update_s,
        "bottleneck": made.bottleneck,
        "problems": list(made.problems),
        "best": {"placement": asdict(best.placement), "update_s": best.update_s} if best else None,
    }
