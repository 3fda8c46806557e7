"""The gradient of an update is that of one row a step, however the batch is laid out.

Production goes the way of `lzero.train.loop`: samples, score, advantages, scored, update. What it is held against is written here
from the formulas: a forward pass for every step, of its whole prompt and its action, and nothing of how batches are made. Then
production is broken in one place at a time, and the same comparison has to tell.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from msgspec import structs
from plain_gradient import TOKENIZER, Policies, Row, expected, policies, random_groups, row_a_step
from torch import Tensor

from lzero.algo import batches, layout
from lzero.algo.batches import MicroBatch, Scored
from lzero.algo.layout import Layout, Packing, plan
from lzero.algo.losses import ppo
from lzero.algo.samples import to_samples
from lzero.config import Config, make_config
from lzero.train import trainer as production
from lzero.train.trainer import Trainer
from lzero.types import Episode, Group, Sample

pytestmark = pytest.mark.integration
PARTS = (1, 3, 7)

SETTINGS: dict[str, dict[str, Any]] = {
    "policy gradient": {"kl_coef": 0.0},
    "policy gradient, KL in the loss": {"kl_coef": 0.1},
    "policy gradient, k1 in the loss": {"kl_coef": 0.1, "kl": "k1"},
    "policy gradient, k2 in the loss": {"kl_coef": 0.1, "kl": "k2"},
    "policy gradient, KL in the reward": {"kl_coef": 0.1, "kl_in": "reward", "kl": "k1"},
    "policy gradient, entropy": {"kl_coef": 0.0, "entropy_coef": 0.05},
    "policy gradient, importance": {"kl_coef": 0.0, "importance_cap": 1.5},
    "ppo, tokens": {"kl_coef": 0.0, "loss": "ppo", "ratio": "token"},
    "ppo, steps": {"kl_coef": 0.0, "loss": "ppo", "ratio": "step", "clip_low": 0.05, "clip_high": 0.05},
    "ppo, episodes": {"kl_coef": 0.0, "loss": "ppo", "ratio": "episode", "clip_low": 0.02, "clip_high": 0.03},
    "ppo, everything": {
        "loss": "ppo", "ratio": "step", "dual_clip": 1.1, "kl_coef": 0.1, "entropy_coef": 0.05, "importance_cap": 1.5,
    },
    "ppo, everything, KL in the reward": {
        "loss": "ppo", "ratio": "episode", "kl_coef": 0.1, "kl_in": "reward", "entropy_coef": 0.05, "importance_cap": 1.5,
    },
}  # fmt: skip
AVERAGES = ("token", "step", "episode", "constant")
PAIRS = [(name, average) for name in SETTINGS for average in AVERAGES]
SAMPLE = [PAIRS[number] for number in range(len(PAIRS)) if (number // len(AVERAGES) + number) % 2]
"""Every second average of each setting: one of them and the next have all four between them."""
SEEDS = (0, 1, 5, 6, 7)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread, because such small models would spend their time waiting for the second."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


class Gradients(torch.optim.Optimizer):
    """An optimiser that moves nothing, and keeps its gradients."""

    def __init__(self, model: Any) -> None:
        super().__init__(list(model.parameters()), {"lr": 0.0})
        self.found: list[Tensor] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.found = [torch.zeros_like(own) if own.grad is None else own.grad.clone() for own in parameters]


def configured(algo: dict[str, Any], *, packing: str = "padded", micro_batch_tokens: int = 10_000) -> Config:
    """`algo` holds the options of the loss beside the section's keys."""
    options = {key: value for key, value in algo.items() if key in ppo.PPO.model_fields}
    section = {key: value for key, value in algo.items() if key not in options}
    train = {"packing": packing, "micro_batch_tokens": micro_batch_tokens, "grad_clip": 1e9}
    return make_config({"algo": {**section, "loss_options": options}, "train": train})


def made(config: Config, groups: Sequence[Group], models: Policies) -> list[Tensor]:
    """Return the gradient of the production code."""
    gradients = Gradients(models.current)
    trainer = trainer_of(config, models, gradients)
    samples = trainer.samples(groups)
    scores = replace(trainer, model=models.old).score(samples)
    credited = trainer.credit(groups, samples, scores, update=0)
    trainer.update(trainer.scored(samples, scores, credited), update=0)
    return gradients.found


def trainer_of(config: Config, models: Policies, optimizer: torch.optim.Optimizer) -> Trainer:
    assert config.train.packing != "auto"
    return Trainer(
        config=config,
        model=models.current,
        tokenizer=TOKENIZER,
        reference=models.initial if config.algo.kl_coef > 0 else None,
        optimizers=[optimizer],
        packing=config.train.packing,
    )


def error(found: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the relative error over all parameters."""
    whole, difference = (
        torch.cat([value.double().flatten() for value in values])
        for values in (right, [own - other for own, other in zip(found, right, strict=True)])
    )
    assert whole.norm() > 1e-4
    return float(difference.norm() / whole.norm())


@cache
def policies_of(dtype: torch.dtype) -> Policies:
    return policies(dtype)


@cache
def case(seed: int, dtype: torch.dtype) -> tuple[list[Group], list[Row]]:
    groups = random_groups(seed)
    return groups, row_a_step(groups, policies_of(dtype))


@cache
def cuts(seed: int, *, packing: str, ratio: str) -> dict[int, int]:
    """Return number of micro-batches → the bound on their tokens that gives it."""
    models = policies_of(torch.float32)
    config = configured({"loss": "ppo", "ratio": ratio}, packing=packing)
    trainer = trainer_of(config, models, Gradients(models.current))
    samples = trainer.samples(random_groups(seed))
    found: dict[int, int] = {}
    for tokens in range(1, 1000):
        found.setdefault(len(plan(samples, replace(trainer.layout, max_tokens=tokens))), tokens)
    return found


def laid_out(algo: dict[str, Any], seed: int) -> Iterator[Config]:
    """Yield a configuration for every packing, and each of PARTS."""
    for packing in ("padded", "packed", "tree"):
        bounds = cuts(seed, packing=packing, ratio=algo.get("ratio", "token"))
        yield from (configured(algo, packing=packing, micro_batch_tokens=bounds[parts]) for parts in PARTS)


def errors(algo: dict[str, Any], seed: int, dtype: torch.dtype) -> list[float]:
    """Return the error of every layout against the formulas."""
    groups, rows = case(seed, dtype)
    models = policies_of(dtype)
    right = expected(configured(algo), rows, models.current)
    return [error(made(config, groups, models), right) for config in laid_out(algo, seed)]


def test_the_episodes_have_what_makes_it_hard() -> None:
    for seed in SEEDS:
        groups = random_groups(seed)
        episodes = [episode for group in groups for episode in group.episodes]
        steps = [step for episode in episodes for step in episode.steps]
        assert any(not episode.steps for episode in episodes)
        assert sum(bool(episode.steps) for episode in episodes) >= max(PARTS)
        assert any(step.trimmed and step.prompt.keep == 0 for step in steps)
        assert any(step.trimmed and step.prompt.keep > 0 for step in steps)
        assert {step.kind for step in steps} == {"act", "summarise"}
        firsts = [
            (group.task.id, episode.steps[0].completion)
            for group in groups
            for episode in group.episodes
            if episode.steps
        ]
        assert 4 < len({(task, first.token_ids) for task, first in firsts}) < len(firsts)
        assert len({len(sample.token_ids) for episode in episodes for sample in to_samples(episode)}) > 5
        assert sum(len(to_samples(episode)) for episode in episodes) < len(steps) / 1.5


@pytest.mark.parametrize(
    ("name", "average"), [pair if pair in SAMPLE else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS]
)
def test_every_layout_gives_the_gradient_of_one_row_a_step(name: str, average: str) -> None:
    seed = SEEDS[(list(SETTINGS).index(name) + AVERAGES.index(average)) % len(SEEDS)]
    assert max(errors(SETTINGS[name] | {"average": average}, seed, torch.float64)) < 1e-9


@pytest.mark.parametrize("name", SETTINGS)
def test_it_does_so_in_float32(name: str) -> None:
    number = list(SETTINGS).index(name)
    algo = SETTINGS[name] | {"average": AVERAGES[number % len(AVERAGES)]}
    assert max(errors(algo, SEEDS[number % len(SEEDS)], torch.float32)) < 1e-5


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """Something of production that is broken: `module.name` is replaced by what `broken` makes of it."""

    name: str
    module: Any = production
    broken: Callable[[Any], Any]
    algo: dict[str, Any]
    packing: str = "padded"
    parts: int = 3


def mask_off_by_one(to_samples: Any) -> Any:
    def later(column: tuple[Any, ...], blank: Any) -> tuple[Any, ...]:
        return (blank, *column[:-1])

    def broken(episode: Episode) -> list[Sample]:
        return [
            structs.replace(sample, mask=later(sample.mask, 0), step_index=later(sample.step_index, -1))
            for sample in to_samples(episode)
        ]

    return broken


def prompts_that_only_extend(to_samples: Any) -> Any:
    def broken(episode: Episode) -> list[Sample]:
        steps, length = [], 0
        for step in episode.steps:
            steps.append(structs.replace(step, prompt=structs.replace(step.prompt, keep=length)))
            length += len(step.prompt.new_ids) + len(step.completion.token_ids)
        found: list[Sample] = to_samples(structs.replace(episode, steps=tuple(steps)))
        return found

    return broken


def nothing_after_a_trim(to_samples: Any) -> Any:
    return lambda episode: to_samples(episode)[:1]


def next_steps_advantage(step_advantages: Any) -> Any:
    return lambda sample, advantages: step_advantages(sample, advantages[1:] + advantages[:1])


def predicted_by_itself(lay_out: Any) -> Any:
    def broken(*given: Any, packing: Packing) -> MicroBatch:
        micro: MicroBatch = lay_out(*given, packing=packing)
        return replace(micro, predictors=micro.predictors + 1)

    return broken


def mean_of_the_micro_batch(lay_out: Any) -> Any:
    def broken(*given: Any, packing: Packing) -> MicroBatch:
        micro: MicroBatch = lay_out(*given, packing=packing)
        return replace(micro, weights=micro.weights / micro.weights.sum() / 3)

    return broken


def siblings_are_seen(lay_out: Any) -> Any:
    def broken(*given: Any, packing: Packing) -> MicroBatch:
        micro: MicroBatch = lay_out(*given, packing=packing)
        assert micro.seen_until is not None
        return replace(micro, seen_until=torch.full_like(micro.seen_until, micro.seen_until.shape[1]))

    return broken


def one_token_too_many_is_shared(common_prefix: Any) -> Any:
    return lambda one, other: min(common_prefix(one, other) + 1, len(one), len(other))


def no_position_restarts(lay_out: Any) -> Any:
    def broken(*given: Any, packing: Packing) -> MicroBatch:
        micro: MicroBatch = lay_out(*given, packing=packing)
        in_row = torch.arange(micro.token_ids.shape[1]).expand_as(micro.token_ids)
        return replace(micro, position_ids=in_row)

    return broken


def laid_samples(scored: Sequence[Scored], _: object, rows: Sequence[layout.Row]) -> list[Sample]:
    return [scored[index].sample for row in rows for index in row.members]


def episodes_are_rows(lay_out: Any) -> Any:
    def broken(*given: Any, packing: Packing) -> MicroBatch:
        micro: MicroBatch = lay_out(*given, packing=packing)
        counts = torch.tensor([sum(sample.mask) for sample in laid_samples(*given)])
        return replace(micro, episodes=torch.arange(len(counts)).repeat_interleave(counts))

    return broken


def steps_of_one_number_are_one(lay_out: Any) -> Any:
    def broken(*given: Any, packing: Packing) -> MicroBatch:
        micro: MicroBatch = lay_out(*given, packing=packing)
        steps = [step for sample in laid_samples(*given) for step in sample.step_index if step >= 0]
        return replace(micro, steps=torch.tensor(steps))

    return broken


def rows_are_averaged(owners: Any) -> Any:
    return lambda sample, average: [id(sample) if step >= 0 else None for step in sample.step_index]


def episodes_are_cut(layout: Any) -> Any:
    return lambda *, whole_episodes, **settings: layout(whole_episodes=False, **settings)


def sampling_temperature_lost(to_samples: Any) -> Any:
    return lambda episode: [structs.replace(sample, temperature=1.0) for sample in to_samples(episode)]


def scores_of_another_row(sample_logprobs: Any) -> Any:
    def broken(model: Any, samples: Any, layout: Layout) -> Any:
        longest_first = [samples[index] for rows in plan(samples, layout) for row in rows for index in row.members]
        scores = dict(zip(longest_first, sample_logprobs(model, samples, layout), strict=True))
        return [(scores[sample] + (0.0,) * len(sample.mask))[: len(sample.mask)] for sample in samples]

    return broken


def costs_of_the_step_before(penalties: Any) -> Any:
    def broken(*columns: Any, kind: str) -> dict[tuple[str, int], float]:
        return {(episode, step + 1): cost for (episode, step), cost in penalties(*columns, kind=kind).items()}

    return broken


PLAIN, PPO = SETTINGS["policy gradient"], SETTINGS["ppo, tokens"]
MUTATIONS = [
    Mutation(name="to_samples", broken=mask_off_by_one, algo=PLAIN),
    Mutation(name="to_samples", broken=prompts_that_only_extend, algo=PLAIN),
    Mutation(name="to_samples", broken=nothing_after_a_trim, algo=PLAIN),
    Mutation(name="to_samples", broken=sampling_temperature_lost, algo=PLAIN),
    Mutation(name="step_advantages", broken=next_steps_advantage, algo=PLAIN),
    Mutation(module=batches, name="lay_out", broken=predicted_by_itself, algo=PLAIN),
    Mutation(module=batches, name="lay_out", broken=mean_of_the_micro_batch, algo=PLAIN),
    Mutation(module=batches, name="lay_out", broken=no_position_restarts, algo=PLAIN, packing="packed", parts=1),
    Mutation(module=batches, name="lay_out", broken=no_position_restarts, algo=PLAIN, packing="tree", parts=1),
    Mutation(module=batches, name="lay_out", broken=siblings_are_seen, algo=PLAIN, packing="tree", parts=1),
    Mutation(module=layout, name="common_prefix", broken=one_token_too_many_is_shared, algo=PLAIN, packing="tree"),
    Mutation(module=batches, name="lay_out", broken=episodes_are_rows, algo=SETTINGS["ppo, episodes"]),
    Mutation(module=batches, name="lay_out", broken=steps_of_one_number_are_one, algo=SETTINGS["ppo, steps"]),
    Mutation(module=batches, name="_owners", broken=rows_are_averaged, algo=PLAIN | {"average": "step"}),
    Mutation(module=batches, name="_owners", broken=rows_are_averaged, algo=PLAIN | {"average": "episode"}),
    Mutation(name="Layout", broken=episodes_are_cut, algo=SETTINGS["ppo, episodes"]),
    Mutation(name="sample_logprobs", broken=scores_of_another_row, algo=PPO),
    Mutation(name="penalties", broken=costs_of_the_step_before, algo=SETTINGS["policy gradient, KL in the reward"]),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.broken.__name__)
def test_the_comparison_tells_what_is_broken(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = SEEDS[0]
    groups, rows = case(seed, torch.float64)
    models = policies_of(torch.float64)
    bounds = cuts(seed, packing=mutation.packing, ratio=mutation.algo.get("ratio", "token"))
    config = configured(mutation.algo, packing=mutation.packing, micro_batch_tokens=bounds[mutation.parts])
    right = expected(config, rows, models.current)
    assert error(made(config, groups, models), right) < 1e-9
    monkeypatch.setattr(mutation.module, mutation.name, mutation.broken(getattr(mutation.module, mutation.name)))
    assert error(made(config, groups, models), right) > 1e-4
