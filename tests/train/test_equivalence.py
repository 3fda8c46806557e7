"""The gradient of an update is that of one row a step, however the batch is laid out.

Production goes the way of `lzero.train.loop`: samples, score, advantages, scored, update. What it is held against is written here
from the formulas: a forward pass for every step, of its whole prompt and its action, and nothing of how batches are made. Then
production is broken in one place at a time, and the same comparison has to tell.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from builders import TINY, make_completion, make_episode, make_step
from msgspec import structs
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from lzero.algo import batches, layout
from lzero.algo.batches import MicroBatch, Scored
from lzero.algo.estimators.reinforce_pp import ReinforcePP
from lzero.algo.layout import Layout, Packing, plan
from lzero.algo.loss import make_loss
from lzero.algo.losses import ppo
from lzero.algo.samples import to_samples
from lzero.config import AlgoConfig, Config, make_config
from lzero.models import build_tokenizer, new_model
from lzero.train import trainer as production
from lzero.train.trainer import Trainer
from lzero.types import Episode, Group, Prompt, Reward, Sample, Sampling, Step, Task

pytestmark = pytest.mark.integration
VOCABULARY = 40
PARTS = (1, 3, 7)
TOKENIZER = build_tokenizer()

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


@dataclass(frozen=True)
class Policies:
    """The trained policy, the one before the update, and the initial one: all different."""

    current: Any
    old: Any
    initial: Any


def policies(dtype: torch.dtype) -> Policies:
    """Return the policies: in float64 a GPT-2, which computes in the type of its weights throughout; otherwise Qwen3, whose norms are in
    float32."""
    current = (
        gpt2() if dtype == torch.float64 else new_model(replace(TINY, num_layers=2, init_std=0.2), TOKENIZER, seed=0)
    )
    return Policies(current=current, old=moved(current, 0.02, seed=1), initial=moved(current, 0.05, seed=2))


def gpt2() -> Any:
    torch.manual_seed(0)
    shape = GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=VOCABULARY, n_positions=512, initializer_range=0.3,
        attn_implementation="sdpa",
    )  # fmt: skip
    return GPT2LMHeadModel(shape).double().eval()


def moved(model: Any, distance: float, *, seed: int) -> Any:
    torch.manual_seed(seed)
    other = type(model)(model.config).to(model.dtype).eval()
    with torch.no_grad():
        for target, source in zip(other.parameters(), model.parameters(), strict=True):
            target.copy_(source + distance * torch.randn_like(source))
    return other


def random_groups(seed: int) -> list[Group]:
    """Four groups of three episodes of 0 to 7 steps; prompts extend, or keep a part, or nothing, of what was before."""
    stream = random.Random(seed)
    return [random_group(stream, number) for number in range(4)]


@dataclass(frozen=True)
class Start:
    """The beginning of a task's episodes: its prompt, and one of two first actions."""

    prompt: tuple[int, ...]
    actions: tuple[tuple[int, ...], ...]


def random_group(stream: random.Random, number: int) -> Group:
    counts = [stream.choice((0, 1, 2, 3, 5, 7)) for _ in range(2)] + [stream.randint(3, 6)]
    task = Start(prompt=random_ids(stream, 10), actions=(random_ids(stream, 1), random_ids(stream, 4)))
    episodes = tuple(random_episode(stream, f"{number}/{index}", count, task) for index, count in enumerate(counts))
    rewards = tuple(
        Reward(score=0.0, per_step=tuple(stream.uniform(-1.0, 1.0) for _ in episode.steps), parts={})
        for episode in episodes
    )
    return Group(task=Task(id=str(number), question="", answers=()), episodes=episodes, rewards=rewards)


def random_episode(stream: random.Random, name: str, num_steps: int, start: Start) -> Episode:
    steps: list[Step] = []
    length, room = 0, 0
    for _ in range(num_steps):
        trimmed = length > 0 and (length > 40 or room < 1)
        keep = stream.choice((0, stream.randint(1, min(length - 1, 12)))) if trimmed else length
        room = stream.randint(1, 4) if trimmed or not steps else room - 1
        new_ids = random_ids(stream, stream.randint(1, 6)) if steps else start.prompt
        action = random_ids(stream, stream.choice((1, 1, 2, 3, 6))) if steps else stream.choice(start.actions)
        steps.append(random_step(stream, Prompt(keep=keep, new_ids=new_ids), action, trimmed=trimmed))
        length = keep + len(new_ids) + len(steps[-1].completion.token_ids)
    sampling = Sampling(temperature=stream.choice((0.7, 1.0, 1.3)))
    return make_episode(*steps, name=name, sampling=sampling)


def random_step(stream: random.Random, prompt: Prompt, action: tuple[int, ...], *, trimmed: bool) -> Step:
    logprobs = [-math.log(VOCABULARY) + stream.uniform(-2.0, 1.0) for _ in action]
    step = make_step(make_completion(action, logprobs=logprobs), new_ids=prompt.new_ids, keep=prompt.keep)
    return structs.replace(step, kind="summarise" if stream.random() < 0.2 else "act", trimmed=trimmed)


def random_ids(stream: random.Random, number: int) -> tuple[int, ...]:
    return tuple(stream.randrange(VOCABULARY) for _ in range(number))


class Gradients(torch.optim.Optimizer):
    """An optimiser that moves nothing, and keeps its gradients."""

    def __init__(self, model: Any) -> None:
        super().__init__(list(model.parameters()), {})
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
    advantages = trainer.advantages(groups, samples, scores, update=0)
    trainer.update(trainer.scored(samples, scores, advantages), update=0)
    return gradients.found


def trainer_of(config: Config, models: Policies, optimizer: torch.optim.Optimizer) -> Trainer:
    assert config.train.packing != "auto"
    return Trainer(
        config=config,
        model=models.current,
        tokenizer=TOKENIZER,
        reference=models.initial if config.algo.kl_coef > 0 else None,
        optimizer=optimizer,
        packing=config.train.packing,
    )


@dataclass
class Row:
    """A step alone, with each model's log-probabilities of its action, [n]."""

    episode: str
    reward: float
    sampler: Tensor
    policy: Tensor
    """Carries the gradient, as the entropies do."""
    entropies: Tensor
    old: Tensor
    initial: Tensor


def row_a_step(groups: Sequence[Group], models: Policies) -> list[Row]:
    """Return the rows of all steps, each after those before it."""
    rows = []
    for episode, reward in [pair for group in groups for pair in zip(group.episodes, group.rewards, strict=True)]:
        context: tuple[int, ...] = ()
        for step, paid in zip(episode.steps, reward.per_step, strict=True):
            context = context[: step.prompt.keep] + step.prompt.new_ids
            action = step.completion.token_ids
            told = [
                distributions(model, context, action, episode.sampling.temperature) for model in vars(models).values()
            ]
            own, old, initial = (one[torch.arange(len(action)), list(action)] for one in told)
            rows.append(
                Row(
                    episode=episode.id,
                    reward=paid,
                    sampler=torch.tensor(step.completion.logprobs, dtype=torch.float64),
                    policy=own,
                    entropies=-(told[0].exp() * told[0]).sum(dim=-1),
                    old=old.detach().double(),
                    initial=initial.detach().double(),
                )
            )
            context += action
    return rows


def distributions(model: Any, context: tuple[int, ...], action: tuple[int, ...], temperature: float) -> Tensor:
    """Return log-probabilities [n, V] at each of the action's tokens."""
    logits = model(input_ids=torch.tensor([context + action]), use_cache=False).logits[0]
    return torch.log_softmax(logits[len(context) - 1 : -1] / temperature, dim=-1)


def expected(config: Config, rows: Sequence[Row], model: Any) -> list[Tensor]:
    """Return the gradient by the formulas."""
    algo = config.algo
    advantages = normalised_returns(rows, algo)
    terms = [term(row, advantage, rows, algo) for row, advantage in zip(rows, advantages, strict=True)]
    names = list(dict.fromkeys(row.episode for row in rows))
    of_episodes = [
        torch.cat([own for own, row in zip(terms, rows, strict=True) if row.episode == name]) for name in names
    ]
    constant = config.agent.max_steps * config.agent.response_tokens
    loss = {
        "token": lambda: torch.cat(terms).mean(),
        "step": lambda: torch.stack([own.mean() for own in terms]).mean(),
        "episode": lambda: torch.stack([own.mean() for own in of_episodes]).mean(),
        "constant": lambda: torch.cat(terms).sum() / (len(names) * constant),
    }[algo.average]()
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))


def normalised_returns(rows: Sequence[Row], algo: AlgoConfig) -> list[float]:
    """Return REINFORCE++ over steps: A = (R − mean) / (std + 1e-8), with R_t = r_t + γ R_{t+1}."""
    returns: list[float] = []
    gamma = ReinforcePP.model_validate(algo.estimator_options).gamma
    following, episode = 0.0, ""
    for row in reversed(rows):
        cost = 0.0
        if algo.kl_coef > 0 and algo.kl_in == "reward":
            cost = algo.kl_coef * kl(row.old, row.initial, algo).sum().item()
        following = row.reward - cost + (gamma * following if row.episode == episode else 0.0)
        episode = row.episode
        returns.insert(0, following)
    values = torch.tensor(returns, dtype=torch.float64)
    advantages: list[float] = ((values - values.mean()) / (values.std() + 1e-8)).tolist()
    return advantages


def kl(policy: Tensor, initial: Tensor, algo: AlgoConfig) -> Tensor:
    gap = policy - initial
    return {"k1": gap, "k2": gap**2 / 2, "k3": (-gap).exp() - 1 + gap}[algo.kl]


def term(row: Row, advantage: float, rows: Sequence[Row], algo: AlgoConfig) -> Tensor:
    """Return what each token [n] of a step adds, before any average."""
    surrogate = advantage * row.policy
    loss_fn = make_loss(algo)
    if isinstance(loss_fn, ppo.PPO):
        ratios = (row.policy - row.old).exp()
        if loss_fn.ratio != "token":  # GSPO-token: the value is shared, the gradient is the token's own
            within = [row] if loss_fn.ratio == "step" else [other for other in rows if other.episode == row.episode]
            shared = torch.cat([other.policy - other.old for other in within]).mean().exp().detach()
            ratios = shared * (row.policy - row.policy.detach()).exp()
        clipped = ratios.clamp(1 - loss_fn.clip_low, 1 + loss_fn.clip_high)
        surrogate = torch.minimum(ratios * advantage, clipped * advantage)
        if loss_fn.dual_clip and advantage < 0:
            surrogate = surrogate.clamp(min=loss_fn.dual_clip * advantage)
    if algo.importance_cap:
        surrogate = surrogate * (row.old - row.sampler).exp().clamp(max=algo.importance_cap)
    loss = -surrogate - algo.entropy_coef * row.entropies
    if algo.kl_in == "loss":
        loss = loss + algo.kl_coef * kl(row.policy, row.initial, algo)
    return loss


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
        assert micro.attention_mask is not None
        return replace(micro, attention_mask=torch.ones_like(micro.attention_mask).tril())

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
