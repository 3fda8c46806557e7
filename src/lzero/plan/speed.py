"""Seconds of an update: sampling by engines whose episodes also wait for cells, and learning.

Episodes are a closed queue: each is either in an engine or in its cell. A decoding pass over B sequences reads the weights and all keys and
values, or computes, whichever takes longer; prompts are fed between passes. So the time of a token grows with B, and B is the number of an
engine's episodes that are not in a cell:

    token_s(B) = pass_s(B) + B · new prompt tokens per sampled one · prefill_s
    B = episodes in flight / engines · reply_s / (reply_s + cell_s), with reply_s = reply_tokens · token_s(B)
"""

import math
from dataclasses import dataclass

from lzero.config import Config
from lzero.plan.architecture import Architecture
from lzero.plan.devices import TENSOR_PARALLEL_S, VALUE_BYTES, Device
from lzero.plan.memory import trained_parameters
from lzero.plan.placement import Placement
from lzero.plan.workload import Workload

OPEN_CPU_S, STEP_CPU_S = 0.028, 0.006
"""Processor seconds to open and close a REPL, and of one step in agent and REPL together (docs/benchmarks.md)."""
CONTROLLER_CPU_S = 0.0005
"""Processor seconds of one step in the controller alone, which runs on one core (docs/benchmarks.md)."""
PER_RANK_PASSES = 3
"""Times that each pass sends a rank's share of the weights: gathered forward and backward (unless it keeps them), gradients reduced."""
ADAMW_BYTES = 28
"""Bytes that a step of AdamW reads and writes for each weight: weight, gradient and moments in float32."""
RECORD_S = 0.001
"""Seconds that an update takes to write the record of one episode."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Speed of all engines together."""

    in_flight: int
    """Episodes in flight, and REPLs open."""
    decoding: float
    """Mean sequences in an engine's pass."""
    fitting: int
    """Sequences whose keys and values fit into one engine."""
    token_s: float
    """Seconds between two tokens of one sequence."""
    step_s: float
    """Seconds of a step, its cell included."""
    steps_per_s: float
    tokens_per_s: float
    rollout_s: float
    longest_s: float
    """Seconds of the longest episode of a batch."""
    limit: str
    """The part that limits the speed."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Speed of the learner."""

    tokens: float
    """Computed tokens of an update, padding included."""
    score_s: float
    optimise_s: float
    record_s: float
    transfer_s: float
    tokens_per_s: float

    @property
    def seconds(self) -> float:
        return self.score_s + self.optimise_s + self.record_s + self.transfer_s


def sampling(
    model: Architecture, config: Config, work: Workload, placement: Placement, *, device: Device, kv_bytes: float
) -> Sampling:
    """Return the speed of sampling the episodes of one update. `kv_bytes`: memory of one engine's device for keys and values."""
    engine = EngineTimes(model, config, work, placement, device)
    reserved = config.agent.max_tokens if placement.shared else work.tokens
    room = kv_bytes * placement.devices_per_replica
    fitting = max(1, int(room / (reserved * model.kv_bytes(VALUE_BYTES[config.model.dtype]))))
    wanted = config.rollout.tasks_per_update * config.rollout.episodes_per_task
    in_flight = min(config.rollout.concurrency, wanted * (1 + config.rollout.max_lag))
    if placement.shared:
        in_flight = min(in_flight, fitting)
    batch = min(engine.batch(in_flight), float(fitting))
    token_s = engine.token_s(batch)
    step_s = work.reply_tokens * token_s + work.cell_s
    longest_s = work.longest * work.steps * (work.reply_tokens * token_s + work.cell_s)
    rate = placement.replicas * batch / (work.reply_tokens * token_s)
    limit = _limit(rate, in_flight / step_s, is_in_engine=work.reply_tokens * token_s > work.cell_s)
    if device.shares_cores:
        cpu_s = (STEP_CPU_S + OPEN_CPU_S / work.steps) / device.shares_cores
        if cpu_s * rate > 1:
            limit = "the cores, which agent and REPLs share with the engine"
        rate = 1 / (1 / rate + cpu_s)
    if rate > 1 / CONTROLLER_CPU_S:
        rate, limit = 1 / CONTROLLER_CPU_S, "the controller, which runs on one core"
    return Sampling(
        in_flight=in_flight,
        decoding=batch,
        fitting=fitting,
        token_s=token_s,
        step_s=step_s,
        steps_per_s=rate,
        tokens_per_s=rate * work.reply_tokens,
        longest_s=longest_s,
        rollout_s=_rollout_s(config, work, wanted=wanted, in_flight=in_flight, rate=rate, longest_s=longest_s),
        limit=limit,
    )


def _limit(engine_rate: float, waiting_rate: float, *, is_in_engine: bool) -> str:
    if engine_rate < 0.98 * waiting_rate:
        return "memory for keys and values: episodes queue for a place in an engine"
    return "the engines" if is_in_engine else "cells and their tools: more episodes in flight would fill the engines"


@dataclass(frozen=True)
class EngineTimes:
    """One engine's time for a token, by the number of sequences that it decodes at once."""

    model: Architecture
    config: Config
    work: Workload
    placement: Placement
    device: Device

    def token_s(self, batch: float) -> float:
        """Return the seconds between two tokens of a sequence, with prefills in between."""
        model, work, device, width = self.model, self.work, self.device, self.placement.devices_per_replica
        kind = self.config.model.dtype
        read = model.read_parameters(batch) * VALUE_BYTES[kind] + batch * work.context * model.kv_bytes(
            VALUE_BYTES[kind]
        )
        computed = batch * model.token_operations(context=work.context)
        pass_s = max(read / device.bandwidth, computed / device.decode[kind]) / width
        pass_s += device.pass_s + model.layers * device.layer_s + batch * device.row_s
        if width > 1:
            pass_s += model.layers * TENSOR_PARALLEL_S
        first = work.prompt_tokens / self.config.rollout.episodes_per_task
        new = (first + max(0.0, work.steps - 1) * work.output_tokens) / work.action_tokens
        prefill_s = model.token_operations(context=work.context, logits=0.0) / device.forward[kind] / width
        return pass_s + batch * new * prefill_s

    def batch(self, in_flight: int) -> float:
        """Return how many sequences an engine decodes at once when the other episodes are in their cells."""
        most = in_flight / self.placement.replicas
        low, high = 0.0, most
        for _ in range(60):
            middle = (low + high) / 2
            replying_s = self.work.reply_tokens * self.token_s(middle)
            if most * replying_s / (replying_s + self.work.cell_s) > middle:
                low = middle
            else:
                high = middle
        return max(1e-6, high)


def _rollout_s(config: Config, work: Workload, *, wanted: int, in_flight: int, rate: float, longest_s: float) -> float:
    """Return the seconds of an update's rollout. `rate`: steps a second.

    Without a lag, each round of tasks waits for its longest episode. With one, episodes run all the time.
    """
    refilled = wanted * work.dropped / max(1e-9, 1 - work.dropped)
    if config.rollout.max_lag:
        return (wanted + refilled) * work.steps / rate
    rounds = [wanted, *([refilled] if refilled >= 1 else [])]
    return sum(
        max(size * work.steps / rate, max(0.0, size - in_flight) * work.steps / rate + longest_s) for size in rounds
    )


def learning(model: Architecture, config: Config, work: Workload, placement: Placement, *, device: Device) -> Learning:
    """Return the speed of learning from the episodes of one update."""
    train, critic, ranks = config.train, config.critic, placement.ranks
    episodes = config.rollout.tasks_per_update * config.rollout.episodes_per_task
    tokens = episodes * work.tokens * (1 - work.shared) / (1 - work.padding)
    kind = config.model.dtype
    operations = tokens * model.token_operations(
        context=_attended(config, work, device), logits=work.action_tokens / work.tokens
    )
    passes = max(1, math.ceil(tokens * train.sequence_ranks / ranks / train.micro_batch_tokens))
    exchanged_s = _exchanged_bytes(model, config) * tokens / ranks / device.link
    layers_s = passes * model.layers * device.train_layer_s
    forward_s = operations / device.forward[kind] / ranks + layers_s / 3 + exchanged_s
    optimise_s = operations * _passes(model, config) / device.train[kind] / ranks + layers_s
    optimise_s += exchanged_s * (3 if train.gradient_checkpointing else 2)
    if ranks > 1:
        sent = (PER_RANK_PASSES - (not train.reshard)) * model.parameters * VALUE_BYTES[kind]
        optimise_s = max(optimise_s, passes * sent / device.link)
    trained = trained_parameters(model, config)
    stepping_s = train.minibatches * ADAMW_BYTES * trained / ranks / device.bandwidth
    critic_passes = 3 + train.gradient_checkpointing if critic.kind == "model" else 1
    critic_s = critic.epochs * operations * critic_passes / device.train[kind] / ranks if critic.kind != "none" else 0.0
    optimise_s = train.epochs * (optimise_s + stepping_s + critic_s)
    score_s = forward_s * (num_scorings(config) + (critic.kind != "none"))
    moved = model.parameters * VALUE_BYTES[kind]
    transfer_s = 2 * moved / (device.bandwidth if placement.shared else device.link)
    record_s = RECORD_S * episodes
    return Learning(
        tokens=tokens,
        score_s=score_s,
        optimise_s=optimise_s,
        record_s=record_s,
        transfer_s=transfer_s,
        tokens_per_s=episodes * work.tokens / max(1e-9, score_s + optimise_s),
    )


def _attended(config: Config, work: Workload, device: Device) -> float:
    """Return the mean number of tokens with which a token's attention computes.

    A kernel leaves out what a token does not see; a mask costs the square of the row. A measured device has its own attention in its rates.
    """
    train, own = config.train, work.tokens / 2
    if train.attention != "mask" or train.packing == "padded" or device.is_measured:
        return own
    tree = config.rollout.episodes_per_task * work.tokens * (1 - work.shared)
    return min(tree, train.micro_batch_tokens) if train.packing == "tree" else float(train.micro_batch_tokens)


def _exchanged_bytes(model: Architecture, config: Config) -> float:
    """Return the bytes that ranks which share rows send for each token of a pass: queries, keys, values and outputs of all layers."""
    others = 1 - 1 / config.train.sequence_ranks
    return others * 2 * model.layers * (model.width + model.kv_width) * VALUE_BYTES[config.model.dtype]


def num_scorings(config: Config) -> int:
    """Return the passes without a gradient that an update makes over its tokens: of the reference, and of the policy before it."""
    algo = config.algo
    old = algo.loss != "policy_gradient" or algo.importance_cap > 0 or (algo.kl_coef > 0 and algo.kl_in == "reward")
    return (algo.kl_coef > 0) + (old and config.rollout.max_lag == 0)


def _passes(model: Architecture, config: Config) -> float:
    """Return the cost of an update of one token, in forward passes: forward, backward to states, backward to weights, recomputation."""
    learning = 1 - min(config.train.frozen_layers, model.layers) / model.layers
    to_weights = 0.0 if config.lora.rank else learning
    return 1 + learning + to_weights + (learning if config.train.gradient_checkpointing else 0.0)
