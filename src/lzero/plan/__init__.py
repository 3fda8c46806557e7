"""Predict what a run needs and how fast it is, from the model's sizes, the configuration and stated constants.

    config, workload, device ──▶ placement ──▶ memory, sampling, learning ──▶ Plan: seconds of an update, and the bottleneck

Nothing is loaded or started.

architecture.py  sizes of a model
workload.py      sizes of episodes
devices.py       rates of GPUs, by data sheets
measure.py       rates of this machine, measured
placement.py     how many devices learn, and how many sample
memory.py        bytes of each part
speed.py         seconds of sampling and learning
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lzero.config import Config
from lzero.errors import ModelError
from lzero.plan.architecture import Architecture, architecture_of
from lzero.plan.devices import Device
from lzero.plan.memory import DEVICE_BASE, Part, advice, engine_memory, gigabytes, host_memory, total, trainer_memory
from lzero.plan.placement import Placement, configured, possible
from lzero.plan.speed import OPEN_CPU_S, STEP_CPU_S, Learning, Sampling, learning, sampling
from lzero.plan.workload import Workload

COUNTED: Mapping[str, Sequence[str]] = {
    "model": ("path", "dtype"),
    "engine": ("kind", "urls", "replicas", "devices_per_replica"),
    "agent": ("prompt", "max_steps", "max_tokens", "response_tokens", "output_chars", "cell_s", "tools"),
    "rollout": ("tasks_per_update", "episodes_per_task", "concurrency", "max_lag", "filter", "drop_uniform"),
    "algo": ("loss", "importance_cap", "kl_coef", "kl_in"),
    "train": (
        "updates",
        "minibatches",
        "epochs",
        "optimizer",
        "micro_batch_tokens",
        "packing",
        "attention",
        "gradient_checkpointing",
        "frozen_layers",
        "ranks",
        "sequence_ranks",
        "reshard",
        "offload",
        "offload_optimizer",
    ),
    "critic": ("kind", "epochs"),
    "lora": ("rank", "targets"),
    "repl": (),
}
"""Section → its keys that change a plan. Keys of other sections change neither memory nor speed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Prediction for a run on a number of devices."""

    model: Architecture
    device: Device
    work: Workload
    placement: Placement
    trainer: Sequence[Part]
    """Memory on each device that learns; with one device for all, that of the engine too."""
    engine: Sequence[Part]
    """Memory on each device that samples; empty if the trainer's device does."""
    host: Sequence[Part]
    """Memory of controller and REPLs."""
    sampling: Sampling
    learning: Learning
    update_s: float
    bottleneck: str
    run_s: float
    """Seconds of all updates, without evaluations."""
    problems: Sequence[str]
    """Reasons why the run does not fit, each with its fix."""

    @property
    def repl_cores(self) -> float:
        """Cores that agent and REPLs keep busy while episodes run."""
        return self.sampling.steps_per_s * (STEP_CPU_S + OPEN_CPU_S / self.work.steps)


def make_plan(
    config: Config, model: Architecture, work: Workload, device: Device, *, placement: Placement, devices: int
) -> Plan:
    """Return the plan of a run. `devices`: the number that there is."""
    trainer = trainer_memory(model, config, placement)
    engine = engine_memory(model, config, placement, device_bytes=device.memory)
    kv_bytes = engine[-1].size
    sampled = sampling(model, config, work, placement, device=device, kv_bytes=kv_bytes)
    learned = learning(model, config, work, placement, device=device)
    if placement.shared:
        trainer, engine = [*trainer, *engine], []
    update_s, bottleneck = _update(config, placement, sampled, learned)
    return Plan(
        model=model,
        device=device,
        work=work,
        placement=placement,
        trainer=trainer,
        engine=engine,
        host=host_memory(open_repls=sampled.in_flight),
        sampling=sampled,
        learning=learned,
        update_s=update_s,
        bottleneck=bottleneck,
        run_s=update_s * config.train.updates,
        problems=_problems(model, config, placement, device, devices=devices, trainer=trainer, kv_bytes=kv_bytes),
    )


def uncounted(config: Config, model: Architecture, device: Device) -> Iterator[str]:
    """Yield the keys that differ from their defaults and do not change the plan. `model.device` names the device that is measured."""
    for section, counted in COUNTED.items():
        names = (f"{section}.{key}" for key in getattr(config, section).changed() if key not in counted)
        yield from (name for name in names if not (device.is_measured and name == "model.device"))
    yield from (f"lora.targets: {name}" for name in config.lora.targets if name not in model.linear_layers)


def fastest(config: Config, model: Architecture, work: Workload, device: Device, *, devices: int) -> Plan | None:
    """Return the plan with the shortest update among those that use all devices and fit into them; None if none does."""
    plans = [
        make_plan(config, model, work, device, placement=placement, devices=devices)
        for placement in possible(devices, model.heads)
    ]
    return min((plan for plan in plans if not plan.problems), key=lambda plan: plan.update_s, default=None)


def _update(config: Config, placement: Placement, sampled: Sampling, learned: Learning) -> tuple[float, str]:
    """Return the seconds of an update, and the part that takes longest.

    A batch takes the oldest groups, and waits for the longest of them. With a lag of L updates, the groups of a batch begin when the L-th
    update before it has been learned, so its longest episode has L times learning and L + 1 times waiting until it is needed.
    """
    sampling = f"sampling, by {sampled.limit}"
    lag = config.rollout.max_lag
    if not lag or placement.shared:
        longer = sampling if sampled.rollout_s > learned.seconds else "learning"
        return sampled.rollout_s + learned.seconds, longer
    waiting_s = max(0.0, (sampled.longest_s - lag * learned.seconds) / (lag + 1))
    seconds = {
        sampling: sampled.rollout_s,
        "learning": learned.seconds,
        "the longest episodes, which batches wait for: a larger rollout.max_lag or shorter cells would help": (
            learned.seconds + waiting_s if waiting_s else 0.0
        ),
    }
    longest = max(seconds, key=lambda name: seconds[name])
    return seconds[longest], longest


def memory_lines(config: Config) -> list[str]:
    """Return a sentence about the memory that a run will need; none for an architecture that a plan does not know."""
    try:
        model = architecture_of(config.model.path)
    except ModelError:
        return []
    placement = configured(config)
    learner = trainer_memory(model, config, placement)
    parts = [*learner, *(engine_memory(model, config, placement, device_bytes=math.inf) if placement.shared else [])]
    largest = ", ".join(
        f"{part.name} {gigabytes(part.size)}" for part in sorted(parts, key=lambda part: -part.size)[:3]
    )
    episodes = config.rollout.tasks_per_update * config.rollout.episodes_per_task * (1 + config.rollout.max_lag)
    _, repls = host_memory(open_repls=min(config.rollout.concurrency, episodes))
    where = "Learner and engine" if placement.shared else "The learner"
    each = " on each rank" if placement.ranks > 1 else ""
    return [
        f"{where} will need about {gigabytes(total(parts))} of memory{each} (mostly {largest}), and REPLs about {gigabytes(repls.size)}."
    ]


def _problems(
    model: Architecture,
    config: Config,
    placement: Placement,
    device: Device,
    *,
    devices: int,
    trainer: Sequence[Part],
    kv_bytes: float,
) -> list[str]:
    found = []
    if placement.devices > devices:
        found.append(f"the configuration asks for {placement.devices} devices ({placement}), and there are {devices}")
    base = 0.0 if device.shares_cores else DEVICE_BASE
    over = total(trainer) + base - device.memory
    if over > 0:
        fixes = (
            "; ".join(advice(model, config, placement, over=over, device_bytes=device.memory))
            or "use devices with more memory"
        )
        found.append(
            f"learning needs {gigabytes(total(trainer) + base)} of each device, which has {gigabytes(device.memory)}: {fixes}"
        )
    longest = config.agent.max_tokens * model.kv_bytes(2 if config.model.dtype == "bfloat16" else 4)
    if not placement.shared and kv_bytes * placement.devices_per_replica < longest:
        found.append(
            f"an engine of {placement.devices_per_replica} devices has {gigabytes(kv_bytes * placement.devices_per_replica)} for keys and "
            f"values, and one episode of agent.max_tokens = {config.agent.max_tokens:,} needs {gigabytes(longest)}: raise "
            "engine.devices_per_replica"
        )
    return found
