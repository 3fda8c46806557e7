"""The critic: its values, its gradient in every layout, its warm-up, and a run that stops and goes on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, make_completion, make_episode, make_micro_batch, make_run, make_step, save_tiny
from msgspec import structs
from plain_gradient import TOKENIZER, random_groups
from torch import Tensor

from lzero.algo.batches import collate
from lzero.algo.layout import Packing
from lzero.config import Config, load_config
from lzero.errors import ModelError, StoreError
from lzero.models import build_tokenizer, new_model, save_model
from lzero.train.checkpoint import Progress, save_checkpoint, take_snapshot
from lzero.train.critic import Critic, value_loss
from lzero.train.skipped import SkippedStep, read_skipped, write_skipped
from lzero.train.trainer import Trainer
from lzero.types import Episode, Group

pytestmark = pytest.mark.integration
KINDS = ("model", "head")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(
        tmp_path_factory.mktemp("models") / "tiny", TOKENIZER, sizes=replace(TINY, num_layers=2, init_std=0.2)
    )


def config_of(model_dir: Path, *overrides: str) -> Config:
    fixed = ("algo.estimator=bilevel_gae", "algo.kl_coef=0", "model.device=cpu", "critic.lr=0.01", "critic.kind=model")
    return load_config(overrides=[f"model.path={model_dir}", *fixed, *overrides])


def critic_of(trainer: Trainer) -> Critic:
    assert trainer.critic is not None
    return trainer.critic


def learn(trainer: Trainer, groups: Sequence[Group], *, update: int = 0) -> dict[str, float]:
    samples = trainer.samples(groups)
    scores = trainer.score(samples)
    credited = trainer.credit(groups, samples, scores, update=update)
    return trainer.update(trainer.scored(samples, scores, credited), update=update)


def with_a_random_head(trainer: Trainer) -> Trainer:
    torch.manual_seed(3)
    torch.nn.init.normal_(critic_of(trainer).model.head.weight)
    return trainer


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_has_the_values_and_the_gradient_of_one_row_a_step(kind: str, model_dir: Path) -> None:
    groups = random_groups(5)
    target, weight = 0.7, 1.0 / sum(len(tokens) for _, _, tokens in steps_of(groups))
    trainer = with_a_random_head(Trainer.build(config_of(model_dir, f"critic.kind={kind}"))[0])
    critic = critic_of(trainer)
    by_hand = {}
    loss = torch.zeros(())
    for (name, step), context, action in steps_of(groups):
        values = plain_values(trainer, context, action)
        by_hand[name, step] = values.tolist()
        loss = loss + weight * ((values - target) ** 2).sum() / 2
    expected = torch.autograd.grad(loss, list(critic.model.parameters()))
    samples = trainer.samples(groups)
    layouts: list[tuple[Packing, int]] = [("padded", 30), ("packed", 90), ("tree", 60)]
    for packing, max_tokens in layouts:
        laid_out = replace(
            trainer, packing=packing, config=config_of(model_dir, f"train.micro_batch_tokens={max_tokens}")
        )
        scores = laid_out.score(samples)
        assert scores.values is not None
        for sample, of_sample in zip(samples, scores.values, strict=True):
            found: dict[tuple[str, int], list[float]] = {}
            for step, value in zip(sample.step_index, of_sample, strict=True):
                if step >= 0:
                    found.setdefault((sample.episode_id, step), []).append(value)
            assert all(own == pytest.approx(by_hand[key], abs=1e-5) for key, own in found.items())
        rows = laid_out.scored(samples, scores, laid_out.credit(groups, samples, scores, update=0))
        rows = [replace(row, value_targets=(target,) * len(row.sample.mask)) for row in rows]
        gradient = gradient_of(critic, collate(rows, laid_out.layout).micro_batches)
        for own, right in zip(gradient, expected, strict=True):
            assert torch.allclose(own, right, rtol=1e-4, atol=1e-6)


def steps_of(groups: Sequence[Group]) -> list[tuple[tuple[str, int], tuple[int, ...], tuple[int, ...]]]:
    """Return (episode id, step), whole prompt and action of each step."""
    found = []
    for episode in (episode for group in groups for episode in group.episodes):
        context: tuple[int, ...] = ()
        for number, step in enumerate(episode.steps):
            context = context[: step.prompt.keep] + step.prompt.new_ids
            found.append(((episode.id, number), context, step.completion.token_ids))
            context += step.completion.token_ids
    return found


def plain_values(trainer: Trainer, context: tuple[int, ...], action: tuple[int, ...]) -> Tensor:
    """Return the values before each token of an action, from a plain forward pass."""
    model = critic_of(trainer).model
    decoder = model.decoder or trainer.model.get_decoder()
    hidden = decoder(input_ids=torch.tensor([context + action]), use_cache=False).last_hidden_state[0]
    values: Tensor = model.head(hidden[len(context) - 1 : -1]).squeeze(-1)
    return values


def gradient_of(critic: Critic, micro_batches: Sequence[Any]) -> list[Tensor]:
    critic.model.zero_grad()
    for micro in micro_batches:
        torch.autograd.backward(value_loss(critic.model(micro), micro, clip=0.0)[0])
    found = [weight.grad.clone() for weight in critic.model.parameters() if weight.grad is not None]
    critic.model.zero_grad()
    return found


def test_a_value_that_has_moved_far_enough_towards_its_target_has_no_gradient() -> None:
    # Targets 1, before 0, clip .5. Values .2 (moves), .8 (has moved), −.8 (moved away: pulled back in full).
    micro = replace(
        make_micro_batch(3, weights=(0.25, 0.25, 0.5)),
        values=torch.zeros(3, dtype=torch.float64),
        value_targets=torch.ones(3, dtype=torch.float64),
    )
    values = torch.tensor([0.2, 0.8, -0.8], dtype=torch.float64, requires_grad=True)
    loss, metrics = value_loss(values, micro, clip=0.5)
    assert loss.item() == pytest.approx((0.25 * 0.64 + 0.25 * 0.25 + 0.5 * 3.24) / 2)
    torch.autograd.backward(loss)
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.25 * -0.8, 0.0, 0.5 * -1.8])
    assert float(metrics["critic/clipped"].value) == pytest.approx(0.25)
    assert value_loss(values, micro, clip=0.0)[0].item() == pytest.approx((0.25 * 0.64 + 0.25 * 0.04 + 0.5 * 3.24) / 2)


def test_values_that_rounding_moves_are_not_counted_as_clipped() -> None:
    generator = torch.Generator().manual_seed(0)
    old, moved, targets = (torch.rand(1_000, generator=generator, dtype=torch.float64) for _ in range(3))
    micro = replace(make_micro_batch(1_000, weights=(0.001,) * 1_000), values=old, value_targets=targets)
    assert float(value_loss(old + 0.1 * moved, micro, clip=0.5)[1]["critic/clipped"].value) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_while_the_critic_warms_up_it_learns_alone_and_then_both_learn(kind: str, model_dir: Path) -> None:
    trainer, _ = Trainer.build(
        config_of(model_dir, f"critic.kind={kind}", "critic.warmup_updates=1", "critic.epochs=2")
    )
    policy, critic = weights_of(trainer.model), weights_of(critic_of(trainer).model)
    first = learn(trainer, random_groups(0), update=0)
    assert same(weights_of(trainer.model), policy)
    assert not same(weights_of(critic_of(trainer).model), critic)
    assert first["critic/value"] == 0.0
    assert first["critic/explained_variance"] == pytest.approx(0.0)
    assert "train/loss" not in first
    warm = weights_of(critic_of(trainer).model)
    second = learn(trainer, random_groups(0), update=1)
    assert {"train/loss", "train/grad_norm", "critic/loss", "critic/grad_norm"} <= second.keys()
    assert not same(weights_of(trainer.model), policy)
    assert not same(weights_of(critic_of(trainer).model), warm)


@pytest.mark.parametrize("kind", KINDS)
def test_the_policys_step_is_that_of_its_advantages_whatever_the_critic_learns(kind: str, model_dir: Path) -> None:
    def after(*settings: str) -> dict[str, Tensor]:
        trainer, _ = Trainer.build(config_of(model_dir, f"critic.kind={kind}", *settings))
        learn(trainer, random_groups(1))
        return weights_of(trainer.model)

    assert same(after(), after("critic.lr=0.1", "critic.epochs=3"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_learns_what_a_state_is_worth(kind: str, model_dir: Path) -> None:
    """Two prompts, one of which is paid: the critic comes to tell them apart by what it reads."""
    trainer, _ = Trainer.build(
        config_of(model_dir, f"critic.kind={kind}", "critic.lr=0.03", "critic.warmup_updates=11")
    )
    groups = [paid_by_prompt(number) for number in range(2)]
    explained = [learn(trainer, groups, update=update)["critic/explained_variance"] for update in range(12)]
    assert explained[0] == pytest.approx(0.0)
    assert explained[-1] > 0.8


def paid_by_prompt(number: int) -> Group:
    (group, *_) = random_groups(0)
    episodes: list[Episode] = []
    for index in range(4):
        step = make_step(make_completion((7 + index, 9), logprobs=(-3.0, -3.0)), new_ids=(5, 11 + 20 * number, 6))
        episodes.append(make_episode(step, name=f"{number}/{index}", index=index))
    rewards = tuple(structs.replace(group.rewards[0], per_step=(float(number),)) for _ in episodes)
    return structs.replace(group, episodes=tuple(episodes), rewards=rewards)


@pytest.mark.parametrize("kind", KINDS)
def test_critic_and_moments_go_on_from_a_checkpoint_bit_by_bit(kind: str, model_dir: Path, tmp_path: Path) -> None:
    config = config_of(model_dir, f"critic.kind={kind}")
    trainer, _ = Trainer.build(config)
    learn(trainer, random_groups(0))
    checkpoint = saved(trainer, tmp_path)
    other, progress = Trainer.build(config, checkpoint=checkpoint)
    assert progress.update == 1
    for number, each in enumerate((trainer, other, trainer, other)):
        learn(each, random_groups(1 + number // 2), update=1 + number // 2)
    assert same(weights_of(critic_of(trainer).model), weights_of(critic_of(other).model))
    assert same(weights_of(trainer.model), weights_of(other.model))


def saved(trainer: Trainer, directory: Path) -> Path:
    snapshot = take_snapshot(
        trainer.model,
        trainer.tokenizer,
        trainer.all_optimizers,
        config=trainer.config,
        progress=Progress(update=1),
        critic=None if trainer.critic is None else trainer.critic.model,
    )
    return save_checkpoint(directory, snapshot, keep=1)


def test_a_checkpoint_without_this_critic_is_refused(model_dir: Path, tmp_path: Path) -> None:
    trainer, _ = Trainer.build(config_of(model_dir, "critic.kind=head"))
    with pytest.raises(StoreError, match="has no weights for this critic"):
        Trainer.build(config_of(model_dir), checkpoint=saved(trainer, tmp_path))


def test_a_critic_that_reads_other_tokens_is_refused(model_dir: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<new>"])
    save_model(new_model(TINY, tokenizer, seed=0), tokenizer, tmp_path / "other")
    with pytest.raises(ModelError, match=r"critic.path = .*other' has another vocabulary than model.path"):
        Trainer.build(config_of(model_dir, f"critic.path={tmp_path / 'other'}"))


def test_a_value_that_is_no_number_skips_the_step_of_both_and_keeps_the_batch(model_dir: Path, tmp_path: Path) -> None:
    trainer, _ = Trainer.build(config_of(model_dir, "critic.kind=head"))
    critic_of(trainer).model.head.bias.data.fill_(math.nan)
    before = weights_of(trainer.model)
    groups, skipped = random_groups(0), list[SkippedStep]()
    samples = trainer.samples(groups)
    scores = trainer.score(samples)
    rows = trainer.scored(samples, scores, trainer.credit(groups, samples, scores, update=0))
    assert trainer.update(rows, update=0, on_skip=skipped.extend)["train/skipped"] == 1.0
    assert same(weights_of(trainer.model), before)
    run = make_run(tmp_path / "run")
    write_skipped(run, skipped, update=0)
    (kept,) = read_skipped(run.path, update=0)
    assert [row.sample for row in kept.batch] == samples
    assert all(row.values is not None and row.value_targets is not None for row in kept.batch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_cannot_make_its_step_keeps_the_critic_from_its_own(kind: str, model_dir: Path) -> None:
    trainer, _ = Trainer.build(config_of(model_dir, f"critic.kind={kind}"))
    groups = random_groups(0)
    samples = trainer.samples(groups)
    scores = trainer.score(samples)
    rows = trainer.scored(samples, scores, trainer.credit(groups, samples, scores, update=0))
    policy, critic = weights_of(trainer.model), weights_of(critic_of(trainer).model)
    lost = [replace(row, advantages=tuple(math.inf * on for on in row.sample.mask)) for row in rows]
    assert trainer.update(lost, update=0)["train/skipped"] == 1.0
    assert same(weights_of(trainer.model), policy)
    assert same(weights_of(critic_of(trainer).model), critic)
    assert trainer.update(rows, update=0).keys() >= {"train/loss", "critic/loss"}
    assert not same(weights_of(critic_of(trainer).model), critic)
