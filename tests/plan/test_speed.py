"""Speed of a run: the queue of engines and cells, rounds, and learning."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lzero.config import Config, load_config
from lzero.errors import ConfigError
from lzero.plan import Plan, fastest, make_plan
from lzero.plan.architecture import architecture_of
from lzero.plan.devices import GPUS, device_named
from lzero.plan.placement import Placement, configured
from lzero.plan.workload import Workload, assumed, packing_on

MODEL = architecture_of("Qwen3-4B")
WORK = Workload(steps=5, prompt_tokens=1500, reply_tokens=300, output_tokens=500, cell_s=1.0)
SERVERS = ("engine.kind=vllm", "model.dtype=bfloat16", "rollout.concurrency=256", "agent.max_tokens=16384")


def planned(*overrides: str, work: Workload = WORK, gpus: int = 8, placement: Placement | None = None) -> Plan:
    config = load_config(None, [*SERVERS, *overrides])
    chosen = placement or configured(config)
    return make_plan(config, MODEL, work, GPUS["h100"], placement=chosen, devices=gpus)


@settings(max_examples=25, deadline=None)
@given(replicas=st.integers(1, 16), at_once=st.integers(1, 2000), cell_s=st.floats(0.0, 20.0))
def test_episodes_are_either_in_an_engine_or_in_a_cell(replicas: int, at_once: int, cell_s: float) -> None:
    made = planned(
        f"rollout.concurrency={at_once}", "rollout.tasks_per_update=4000", work=replace(WORK, cell_s=cell_s),
        placement=Placement(ranks=1, replicas=replicas), gpus=17,
    )  # fmt: skip
    sampled = made.sampling
    in_cells = sampled.steps_per_s * cell_s
    assert sampled.decoding * replicas + in_cells <= 1.001 * sampled.in_flight
    if sampled.decoding < sampled.fitting:
        assert sampled.decoding * replicas + in_cells == pytest.approx(sampled.in_flight, rel=1e-3)


def test_slow_tools_are_the_bottleneck_until_more_episodes_run() -> None:
    slow = planned("engine.replicas=4", work=replace(WORK, cell_s=30.0))
    assert "cells" in slow.bottleneck
    twice = ("rollout.concurrency=512", "rollout.tasks_per_update=128", "engine.replicas=4")
    more = planned(*twice, work=replace(WORK, cell_s=30.0))
    assert more.sampling.tokens_per_s > 1.7 * slow.sampling.tokens_per_s


def test_too_many_long_episodes_queue_for_keys_and_values() -> None:
    long = planned("rollout.concurrency=2000", "rollout.tasks_per_update=500", work=replace(WORK, reply_tokens=2500))
    assert "keys and values" in long.bottleneck
    assert long.sampling.decoding == long.sampling.fitting


def test_with_a_lag_sampling_and_learning_overlap() -> None:
    even = replace(WORK, longest=1.0)
    waiting, lagging = planned(work=even), planned("rollout.max_lag=1", work=even)
    assert waiting.update_s == waiting.sampling.rollout_s + waiting.learning.seconds
    assert lagging.update_s == max(lagging.sampling.rollout_s, lagging.learning.seconds)


def test_with_a_lag_batches_still_wait_for_their_longest_episodes() -> None:
    """Groups of a batch begin two waits and one learning before they are needed."""
    uneven = replace(WORK, longest=50.0)
    one, three = (planned(f"rollout.max_lag={lag}", "engine.replicas=7", work=uneven) for lag in (1, 3))
    assert one.update_s == pytest.approx((one.sampling.longest_s + one.learning.seconds) / 2)
    assert "longest episodes" in one.bottleneck
    assert three.update_s < one.update_s


def test_learning_takes_six_operations_a_weight_and_token_and_checkpointing_two_more() -> None:
    config, device = load_config(None, [*SERVERS, "algo.kl_coef=0"]), GPUS["h100"]
    plain, again = planned("algo.kl_coef=0"), planned("algo.kl_coef=0", "train.gradient_checkpointing=true")
    tokens = config.rollout.tasks_per_update * config.rollout.episodes_per_task * WORK.tokens
    matrices = 6 * tokens * MODEL.layers * MODEL.layer_matrices / device.train["bfloat16"]
    assert matrices < plain.learning.optimise_s < 1.3 * matrices
    assert again.learning.optimise_s == pytest.approx(4 / 3 * plain.learning.optimise_s, rel=0.05)


def test_a_run_that_does_not_fit_says_what_would_save_how_much() -> None:
    made = planned("model.dtype=float32", "train.micro_batch_tokens=65536")
    (problem,) = made.problems
    assert "learning needs" in problem
    assert "train.gradient_checkpointing = true saves" in problem
    too_many = planned("engine.replicas=9")
    assert "asks for 10 devices" in too_many.problems[0]


def test_the_fastest_placement_uses_all_devices_and_fits() -> None:
    config = load_config(None, [*SERVERS, "train.gradient_checkpointing=true"])
    best = fastest(config, MODEL, WORK, GPUS["h100"], devices=8)
    assert best is not None
    assert best.placement.devices == 8
    assert not best.problems
    assert best.update_s <= planned("train.gradient_checkpointing=true", "engine.replicas=7").update_s
    assert fastest(config, architecture_of("Qwen2.5-32B-Instruct"), WORK, GPUS["h100"], devices=2) is None


def test_an_unknown_gpu_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'V100': lzero knows A100, H100"):
        device_named("V100")
    assert device_named("h100", memory_gb=94).memory == 94e9


@pytest.mark.parametrize("overrides", [[], ["agent.max_tokens=64", "agent.response_tokens=32", "agent.prompt=full"]])
def test_assumed_sizes_stay_within_the_budgets(overrides: list[str]) -> None:
    config: Config = load_config(None, overrides)
    work = assumed(config)
    assert work.tokens <= config.agent.max_tokens
    assert work.reply_tokens <= config.agent.response_tokens
    assert work.steps <= config.agent.max_steps


@pytest.mark.parametrize(
    ("device", "attention", "packing"),
    [
        ("cuda:1", "auto", "tree"),
        ("cuda", "mask", "packed"),
        ("cuda", "flex", "tree"),
        ("cpu", "mask", "tree"),
        ("cpu", "auto", "tree"),
    ],
)
def test_a_plan_assumes_the_layout_that_training_chooses(device: str, attention: str, packing: str) -> None:
    config = load_config(None, [f"train.attention={attention}"])
    assert packing_on(config, device) == packing
    assert (assumed(config, device=device).shared > 0) == (packing == "tree")
    assert packing_on(load_config(None, ["train.packing=padded"]), device) == "padded"


def test_rates_of_a_data_sheet_are_never_called_measured() -> None:
    found: dict[str, Any] = {name: device.is_measured for name, device in GPUS.items()}
    assert not any(found.values())
