"""The same numbers as TRL's, where it defines the same thing: `make test-reference` installs it and runs this.

Its trainers are taken whole: what is compared with is what they would train on.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, save_tiny
from torch import Tensor

from lzero.algo.batches import Average, Scored, collate, step_advantages
from lzero.algo.credit import Trajectory, credit, make_estimator
from lzero.algo.layout import Layout
from lzero.algo.logprobs import token_logprobs
from lzero.algo.loss import LossInputs, make_loss_fn
from lzero.algo.metrics import combined
from lzero.algo.trajectories import penalties
from lzero.config import AlgoConfig
from lzero.data.world import vocabulary
from lzero.models import build_tokenizer
from lzero.train.score import policy_logprobs, sample_logprobs
from lzero.types import Sample

pytestmark = [
    pytest.mark.reference,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # another project's, of its libraries
]

SIZES = replace(TINY, num_layers=2)
GROUP_SIZE = 4
REWARDS = (1.0, 0.0, 0.5, 0.25, 2.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.3, 0.3)
MAX_COMPLETION = 24
TEMPERATURE = 0.7
LAYOUT = Layout(max_tokens=100)
"""So that a batch falls into several micro-batches."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", build_tokenizer(vocabulary()), sizes=SIZES)


MakeTrainer = Callable[..., Any]


@pytest.fixture(scope="module")
def make_trainer(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeTrainer:
    """make_trainer("GRPO", beta=0.1, …): TRL's trainer of that name, which pays REWARDS whatever the model writes."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: make test-reference")
    datasets = pytest.importorskip("datasets")

    def make(name: str, **settings: Any) -> Any:
        arguments = getattr(trl, f"{name}Config")(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            per_device_train_batch_size=len(REWARDS),
            num_generations=GROUP_SIZE,
            max_completion_length=MAX_COMPLETION,
            temperature=TEMPERATURE,
            report_to="none",
            use_cpu=True,
            bf16=False,
            model_init_kwargs={"dtype": "float32"},
            **settings,
        )
        trainer = getattr(trl, f"{name}Trainer")(
            model=str(directory),
            reward_funcs=lambda completions, **_: list(REWARDS),
            args=arguments,
            train_dataset=datasets.Dataset.from_list([{"prompt": "Starting from"}] * len(REWARDS)),
        )
        trainer.model.eval()
        return trainer

    return make


@pytest.fixture(scope="module")
def grpo(make_trainer: MakeTrainer) -> Any:
    return make_trainer("GRPO", beta=0.0)


# Credit


def rollout(trainer: Any) -> dict[str, Tensor]:
    """Return the trainer's result for a batch of prompts: completions, advantages and so on."""
    prompts = [{"prompt": prompt} for prompt in ("Starting from", "which", "lead to") for _ in range(GROUP_SIZE)]
    batch: dict[str, Tensor] = trainer._generate_and_score_completions(prompts)
    return batch


def credited(estimator: str, rewards: Sequence[float] = REWARDS) -> list[float]:
    """Return lzero's result for the same batch, with each reward as that of an episode of two steps."""
    trajectories = [
        Trajectory(group=str(place // GROUP_SIZE), rewards=(0.25 * reward, 0.75 * reward), states=("", ""))
        for place, reward in enumerate(rewards)
    ]
    advantages = credit(make_estimator(AlgoConfig(estimator=estimator)), trajectories)
    assert all(first == second for first, second in advantages)
    return [first for first, _ in advantages]


@pytest.mark.parametrize(("estimator", "scale"), [("grpo", "group"), ("dr_grpo", "none")])
def test_advantages_of_grpo_and_dr_grpo(grpo: Any, estimator: str, scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo, "scale_rewards", scale)
    assert rollout(grpo)["advantages"].tolist() == pytest.approx(credited(estimator), abs=1e-6)


def test_advantages_of_rloo(make_trainer: MakeTrainer) -> None:
    batch = rollout(make_trainer("RLOO", beta=0.0))
    assert batch["advantages"].tolist() == pytest.approx(credited("rloo"), abs=1e-6)


def test_rloo_with_the_penalty_in_the_reward(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("RLOO", beta=0.3)
    shake(trainer.model)
    batch = rollout(trainer)
    samples = [sample for sample, _ in as_samples(batch)]
    references, policy = (sample_logprobs(model, samples, LAYOUT) for model in (trainer.ref_model, trainer.model))
    costs = penalties(samples, references, policy, kind="k1")
    assert max(map(abs, costs.values())) > 0.1
    rewards = [reward - 0.3 * costs[str(place), 0] for place, reward in enumerate(REWARDS)]
    assert batch["advantages"].tolist() == pytest.approx(credited("rloo", rewards), abs=1e-4)


# Loss


def shake(model: torch.nn.Module) -> None:
    """Another model of the same kind."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * parameter.std().nan_to_num() * torch.randn_like(parameter))


def as_samples(batch: dict[str, Tensor]) -> list[tuple[Sample, list[int]]]:
    """Sequences without padding, and where in a row of the batch's completions each of their action tokens is."""
    mask = batch["completion_mask"] * batch.get("tool_mask", 1)
    found = []
    for number in range(len(mask)):
        prompt = batch["prompt_ids"][number][batch["prompt_mask"][number].bool()].tolist()
        length = int(batch["completion_mask"][number].sum())
        completion, acts = batch["completion_ids"][number][:length].tolist(), mask[number][:length].tolist()
        steps, step = [], -1
        for place, act in enumerate(acts):
            step += act and not (place and acts[place - 1])
            steps.append(step if act else -1)
        sample = Sample(
            episode_id=str(number),
            token_ids=(*prompt, *completion),
            mask=(*[0] * len(prompt), *acts),
            step_index=(*[-1] * len(prompt), *steps),
            logprobs=(0.0,) * (len(prompt) + length),
            versions=(0,) * (len(prompt) + length),
            temperature=TEMPERATURE,
        )
        found.append((sample, [place for place, act in enumerate(acts) if act]))
    return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One batch, as TRL and as we have it: episodes of one to three steps, with outputs of tools in between."""

    inputs: dict[str, Tensor]
    scored: list[Scored]


def make_case(model: Any, *, by_step: bool) -> Case:
    """Log-probabilities before the update, of reference and sampler differ from the model's; advantages by step or by episode."""
    chance = random.Random(0)
    num_rows, prompt_width = len(REWARDS), 7
    columns = {
        "prompt_ids": torch.zeros(num_rows, prompt_width, dtype=torch.int64),
        "prompt_mask": torch.zeros(num_rows, prompt_width, dtype=torch.int64),
        "completion_ids": torch.zeros(num_rows, MAX_COMPLETION, dtype=torch.int64),
        "completion_mask": torch.zeros(num_rows, MAX_COMPLETION, dtype=torch.int64),
        "tool_mask": torch.ones(num_rows, MAX_COMPLETION, dtype=torch.int64),
    }
    for row in range(num_rows):
        prompt = [chance.randrange(5, 60) for _ in range(chance.randint(2, prompt_width))]
        columns["prompt_ids"][row, -len(prompt) :] = torch.tensor(prompt)
        columns["prompt_mask"][row, -len(prompt) :] = 1
        acts: list[int] = []
        for _ in range(chance.randint(1, 3)):
            acts += [0] * (chance.randint(1, 3) if acts else 0) + [1] * chance.randint(1, 5)
        columns["completion_ids"][row, : len(acts)] = torch.tensor([chance.randrange(5, 60) for _ in acts])
        columns["completion_mask"][row, : len(acts)] = 1
        columns["tool_mask"][row, : len(acts)] = torch.tensor(acts)
    sequences = as_samples(columns)
    current = sample_logprobs(model, [sample for sample, _ in sequences], LAYOUT)
    dense = {
        name: torch.zeros(num_rows, MAX_COMPLETION, dtype=torch.float64)
        for name in ("old_per_token_logps", "ref_per_token_logps", "sampling", "advantages")
    }
    scored = []
    for row, ((sample, places), own) in enumerate(zip(sequences, current, strict=True)):

        def near(width: float, own: tuple[float, ...] = own, mask: tuple[int, ...] = sample.mask) -> tuple[float, ...]:
            return tuple(
                value + chance.uniform(-width, width) if on else 0.0 for value, on in zip(own, mask, strict=True)
            )

        old, reference, sampler = near(0.5), near(0.5), near(1.0)
        numbers = [chance.uniform(-2, 2) for _ in range(1 + max(sample.step_index))]
        advantages = step_advantages(sample, numbers if by_step else numbers[:1] * len(numbers))
        sample = Sample(
            **{name: getattr(sample, name) for name in sample.__struct_fields__ if name != "logprobs"}, logprobs=sampler
        )
        scored.append(Scored(sample=sample, advantages=advantages, old_logprobs=old, reference_logprobs=reference))
        start = len(sample.token_ids) - int(columns["completion_mask"][row].sum())
        for name, values in zip(dense, (old, reference, sampler, advantages), strict=True):
            dense[name][row, places] = torch.tensor([values[start + place] for place in places], dtype=torch.float64)
    importance = (dense["old_per_token_logps"] - dense.pop("sampling")).exp().clamp(max=2.0)
    action_tokens = (columns["completion_mask"] * columns["tool_mask"]).sum()
    inputs = columns | dense | {"importance_sampling_ratio": importance, "num_items_in_batch": action_tokens}
    return Case(
        inputs={name: column.float() if column.is_floating_point() else column for name, column in inputs.items()},
        scored=scored,
    )


def ours(model: Any, case: Case, algo: AlgoConfig) -> tuple[float, dict[str, float], list[Tensor]]:
    """Loss, metrics and gradients, added up over micro-batches as an update does."""
    batch = collate(case.scored, LAYOUT, average=algo.average, constant=float(MAX_COMPLETION))
    assert len(batch.micro_batches) > 2
    model.zero_grad()
    total, parts = 0.0, []
    for micro in batch.micro_batches:
        logprobs, entropies = policy_logprobs(model, micro, entropies=True)
        loss, metrics = make_loss_fn(algo)(LossInputs(policy_logprobs=logprobs, micro_batch=micro, entropies=entropies))
        torch.autograd.backward(loss)
        total += loss.item()
        parts.append(metrics)
    means = {name: float(metric.value) for name, metric in combined(parts).items()}
    return total, means, [parameter.grad.clone() for parameter in model.parameters()]


def theirs(trainer: Any, case: Case) -> tuple[float, dict[str, float], list[Tensor]]:
    trainer.model.zero_grad()
    trainer._metrics["eval"].clear()
    loss = trainer._compute_loss(trainer.model, case.inputs)
    torch.autograd.backward(loss)
    metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    return loss.item(), metrics, [parameter.grad.clone() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize(
    ("loss_type", "average"), [("grpo", "episode"), ("bnpo", "token"), ("dapo", "token"), ("dr_grpo", "constant")]
)
@pytest.mark.parametrize(
    ("settings", "algo"),
    [
        ({}, {}),
        ({"delta": 1.4}, {"loss_options": {"dual_clip": 1.4}}),
        ({"beta": 0.1}, {"kl_coef": 0.1}),
        ({"importance": True}, {"importance_cap": 2.0}),
        (
            {"beta": 0.1, "importance": True, "delta": 1.4},
            {"kl_coef": 0.1, "importance_cap": 2.0, "loss_options": {"dual_clip": 1.4}},
        ),
        ({"level": "sequence"}, {"loss_options": {"ratio": "episode"}}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_the_loss_and_its_gradient(
    grpo: Any,
    loss_type: str,
    average: Average,
    settings: dict[str, Any],
    algo: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpo, "loss_type", loss_type)
    monkeypatch.setattr(grpo, "epsilon_low", 0.2)
    monkeypatch.setattr(grpo, "epsilon_high", 0.3)
    monkeypatch.setattr(grpo, "beta", settings.get("beta", 0.0))
    monkeypatch.setattr(grpo.args, "use_bias_correction_kl", False)  # k3 itself, not weighed by the ratio
    monkeypatch.setattr(grpo.args, "delta", settings.get("delta"))
    monkeypatch.setattr(grpo, "importance_sampling_level", settings.get("level", "token"))
    monkeypatch.setattr(grpo, "use_vllm", settings.get("importance", False))
    monkeypatch.setattr(grpo, "vllm_importance_sampling_correction", True)
    options = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 0.0} | algo.get("loss_options", {})
    asked = {"kl_coef": 0.0, "average": average} | algo | {"loss": "ppo", "loss_options": options}
    case = make_case(grpo.model, by_step="level" not in settings)
    loss, metrics, gradients = ours(grpo.model, case, AlgoConfig.model_validate(asked))
    their_loss, their_metrics, their_gradients = theirs(grpo, case)
    assert loss == pytest.approx(their_loss, rel=1e-4, abs=1e-6)
    assert_near(gradients, their_gradients)
    if average == "token" and "level" not in settings:
        assert metrics["train/clipped_low"] == pytest.approx(their_metrics["clip_ratio/low_mean"], abs=1e-6)
        if "delta" not in settings:
            assert metrics["train/clipped_high"] == pytest.approx(their_metrics["clip_ratio/high_mean"], abs=1e-6)
        if "beta" in settings:
            assert metrics["train/kl"] == pytest.approx(their_metrics["kl"], rel=1e-4)


def test_the_bonus_for_entropy(grpo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo, "loss_type", "bnpo")
    monkeypatch.setattr(grpo, "_entropy_bonus_enabled", True)
    monkeypatch.setattr(grpo, "entropy_coef", 0.7)
    case = make_case(grpo.model, by_step=True)
    algo = AlgoConfig(
        loss="ppo",
        loss_options={"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 0.0},
        kl_coef=0.0,
        entropy_coef=0.7,
    )
    loss, metrics, gradients = ours(grpo.model, case, algo)
    their_loss, their_metrics, their_gradients = theirs(grpo, case)
    assert loss == pytest.approx(their_loss, rel=1e-4)
    assert metrics["train/entropy"] == pytest.approx(their_metrics["entropy"], rel=1e-5)
    assert_near(gradients, their_gradients)


def assert_near(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    """Gradients of a whole model, equal to rounding in float32."""
    first, second = (torch.cat([part.flatten() for part in parts]) for parts in (one, other))
    assert second.norm() > 1e-3
    assert (first - second).norm() / second.norm() < 1e-4


def test_logprobs_and_entropies_of_logits() -> None:
    utils = pytest.importorskip("trl.trainer.utils")
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=False).double()
    hidden, targets = torch.randn(20, 8, dtype=torch.float64), torch.randint(0, 50, (20,))
    temperatures = torch.rand(20, dtype=torch.float64) + 0.5
    logits = head(hidden) / temperatures.unsqueeze(-1)
    logprobs, entropies = token_logprobs(hidden, head, targets, temperatures, entropies=True)
    torch.testing.assert_close(logprobs, utils.selective_log_softmax(logits, targets))
    torch.testing.assert_close(entropies, utils.entropy_from_logits(logits))
