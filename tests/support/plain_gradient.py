"""A gradient written from the formulas, with one row for each step, and random episodes that have what makes it hard."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from builders import TINY, make_completion, make_episode, make_step
from msgspec import structs
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from lzero.algo.estimators.reinforce_pp import ReinforcePP
from lzero.algo.loss import make_loss
from lzero.algo.losses import ppo
from lzero.config import AlgoConfig, Config
from lzero.models import build_tokenizer, new_model
from lzero.types import Episode, Group, Prompt, Reward, Sampling, Step, Task

VOCABULARY = 40
TOKENIZER = build_tokenizer()


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
