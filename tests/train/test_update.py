"""An update: its gradient, its log-probabilities, its metrics, and the types of its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from adamw import make_adamw
from builders import make_completion, make_episode, make_nano, make_step
from msgspec import structs
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from lzero.algo import logprobs
from lzero.algo.batches import Scored, collate, unscored
from lzero.algo.layout import Layout, Packing
from lzero.algo.loss import make_loss_fn
from lzero.algo.samples import to_samples
from lzero.config import AlgoConfig
from lzero.errors import ConfigError, ModelError, NotFinite
from lzero.models import load_model, resolve
from lzero.train.packing import choose_packing
from lzero.train.probe import PROBE_TOKENS, probe_ids
from lzero.train.score import sample_logprobs
from lzero.train.trainable import freeze_layers, recompute_activations
from lzero.train.update import update_policy
from lzero.types import Episode, Sample, Sampling

pytestmark = pytest.mark.integration
ADVANTAGES = (0.7, -1.3, 0.4)


def double_model() -> Any:
    """GPT-2 computes in the type of its weights throughout, so float64 is float64 (Qwen3's norms round to float32)."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=64, attn_implementation="sdpa")
    return GPT2LMHeadModel(config).double().eval()


def episode(number: int, *, num_steps: int = 3) -> Episode:
    """Return an episode of prompts that extend each other, with a length that depends on `number`."""
    steps, length = [], 0
    for index in range(num_steps):
        new_ids = tuple((7 * number + 3 * index + offset) % 40 for offset in range(2 + number % 4))
        action = tuple((5 * number + 11 * index + offset) % 40 for offset in range(1 + (number + index) % 3))
        steps.append(make_step(make_completion(action, logprobs=(-1.0,) * len(action)), new_ids=new_ids, keep=length))
        length += len(new_ids) + len(action)
    return make_episode(*steps, name=f"task/{number}", index=number, sampling=Sampling(temperature=0.8))


def scored(samples: Sequence[Sample], reference: Any) -> list[Scored]:
    references = sample_logprobs(reference, samples, Layout(max_tokens=50))
    return [
        Scored(
            sample=sample,
            advantages=tuple(ADVANTAGES[step] if step >= 0 else 0.0 for step in sample.step_index),
            reference_logprobs=own,
            old_logprobs=own,
        )
        for sample, own in zip(samples, references, strict=True)
    ]


def gradient(
    rows: Sequence[Scored], *, max_tokens: int, grad_clip: float = 1e9, model: Any = None
) -> dict[str, Tensor]:
    """Return the gradient of an update, from a step of plain gradient descent with learning rate 1."""
    model = model or double_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss_fn = make_loss_fn(AlgoConfig(kl_coef=0.1))
    update_policy(
        model, [optimizer], collate(rows, Layout(max_tokens=max_tokens)), loss_fn=loss_fn, grad_clip=grad_clip
    )
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}


def another_double_model() -> Any:
    model = double_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def kept_bytes(model: Any) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, weights included."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.clone()  # alive until the count is done, so that no address is used twice

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(input_ids=torch.zeros(1, 60, dtype=torch.long), use_cache=False)
    assert output.logits.requires_grad
    return sum(kept.values())


def test_activations_that_are_computed_again_change_no_gradient_and_are_not_kept() -> None:
    rows = scored([sample for number in range(7) for sample in to_samples(episode(number))], another_double_model())
    model = double_model()
    recompute_activations(model)
    assert kept_bytes(model) < 0.7 * kept_bytes(double_model())
    assert distance(gradient(rows, max_tokens=40), gradient(rows, max_tokens=40, model=model)) < 1e-12
    assert not model.training


def test_frozen_layers_stay_as_they_are_and_the_others_learn_as_they_do_without() -> None:
    rows = scored([sample for number in range(3) for sample in to_samples(episode(number))], double_model())

    def updated(frozen: int) -> Any:
        model = make_nano()
        freeze_layers(model, frozen)
        batch = collate(rows, Layout(max_tokens=1000))
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
        update_policy(model, [optimizer], batch, loss_fn=make_loss_fn(AlgoConfig(kl_coef=0.0)), grad_clip=1e9)
        return dict(model.named_parameters())

    before, whole, part = dict(make_nano().named_parameters()), updated(0), updated(1)
    for name, weight in part.items():
        learns = name.startswith(("model.layers.1.", "model.norm."))
        assert torch.equal(weight, (whole if learns else before)[name]), name
        assert torch.equal(weight, before[name]) != learns, name
    with pytest.raises(ConfigError, match="frozen_layers = 2: Qwen3ForCausalLM has 2 layers"):
        freeze_layers(make_nano(), 2)


def test_the_gradient_is_that_of_the_formula() -> None:
    """Central differences of 1/N Σ [−A log π + 0.1 k3] in float64, log π from a plain full forward pass."""
    samples = [sample for number in range(3) for sample in to_samples(episode(number))]
    reference = another_double_model()
    rows = scored(samples, reference)

    def objective(model: Any) -> float:
        total = 0.0
        for row in rows:
            logits = model(input_ids=torch.tensor([row.sample.token_ids])).logits[0] / row.sample.temperature
            logprobs = torch.log_softmax(logits, dim=-1)
            for position, on in enumerate(row.sample.mask):
                if on:
                    logprob = logprobs[position - 1, row.sample.token_ids[position]]
                    gap = row.reference_logprobs[position] - logprob
                    total += (-row.advantages[position] * logprob + 0.1 * (gap.exp() - 1 - gap)).item()
        return total / sum(sum(row.sample.mask) for row in rows)

    computed = gradient(rows, max_tokens=1000)
    model = double_model()
    parameters = dict(model.named_parameters())
    for name, index in [("transformer.h.0.attn.c_attn.weight", (3, 5)), ("transformer.wte.weight", (7, 2))]:
        values = []
        for move in (1e-5, -1e-5):
            with torch.no_grad():
                parameters[name][index] += move
                values.append(objective(model))
                parameters[name][index] -= move
        assert computed[name][index].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-10)


def test_log_probabilities_are_those_of_a_plain_forward_pass_under_the_samples_temperature() -> None:
    model = make_nano()
    samples = [to_samples(episode(number))[0] for number in range(5)]
    for sample, scores in zip(samples, sample_logprobs(model, samples, Layout(max_tokens=30)), strict=True):
        logits = model(input_ids=torch.tensor([sample.token_ids])).logits[0].float() / 0.8
        logprobs = torch.log_softmax(logits, dim=-1)
        for position, on in enumerate(sample.mask):
            expected = logprobs[position - 1, sample.token_ids[position]].item() if on else 0.0
            assert scores[position] == pytest.approx(expected, abs=1e-5)


def test_log_probabilities_of_a_large_vocabulary_are_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_nano()
    samples = [to_samples(episode(number))[0] for number in range(5)]
    whole = sample_logprobs(model, samples, Layout(max_tokens=1000))
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 2 * 259)
    for one, other in zip(whole, sample_logprobs(model, samples, Layout(max_tokens=1000)), strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_a_gradient_longer_than_the_clip_is_shortened_to_it() -> None:
    rows = scored(to_samples(episode(1)), another_double_model())
    clipped = gradient(rows, max_tokens=1000, grad_clip=0.01)
    norm = torch.cat([value.flatten() for value in clipped.values()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-4)


def test_an_update_that_is_not_finite_is_not_applied() -> None:
    model = make_nano()
    optimizer = make_adamw(model, lr=1e-2, weight_decay=0.01)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [unscored(to_samples(episode(1))[0], advantage=float("inf"))]
    with pytest.raises(NotFinite, match="was skipped: loss"):
        update_policy(
            model,
            [optimizer],
            collate(rows, Layout(max_tokens=100)),
            loss_fn=make_loss_fn(AlgoConfig(kl_coef=0.0)),
            grad_clip=1.0,
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not optimizer.state


def test_the_gap_between_sampler_and_trainer_is_measured() -> None:
    model = make_nano()
    sample = to_samples(episode(1))[0]
    own = sample_logprobs(model, [sample], Layout(max_tokens=100))[0]
    for shift in (0.0, 0.25):
        shifted = tuple(logprob + shift * on for logprob, on in zip(own, sample.mask, strict=True))
        drawn = structs.replace(sample, logprobs=shifted)
        metrics = update_policy(
            model,
            [],
            collate([unscored(drawn, advantage=1.0)], Layout(max_tokens=100)),
            loss_fn=make_loss_fn(AlgoConfig(kl_coef=0.0)),
            grad_clip=1.0,
        )
        assert metrics["train/logprob_gap"].value == pytest.approx(shift, abs=1e-5)
        assert metrics["train/logprob_gap_max"].value == pytest.approx(shift, abs=1e-5)


def test_metrics_are_means_also_where_the_loss_is_divided_by_a_constant() -> None:
    model = make_nano()
    rows = [unscored(to_samples(episode(number))[0], advantage=1.0) for number in range(3)]
    loss_fn = make_loss_fn(AlgoConfig(loss="ppo", loss_options={"clip_low": 0.0, "clip_high": 0.0}))
    token, constant = (
        {
            name: float(metric.value)
            for name, metric in update_policy(
                model,
                [],
                collate(rows, Layout(max_tokens=20), average=average, constant=1000.0),
                loss_fn=loss_fn,
                grad_clip=1.0,
            ).items()
        }
        for average in ("token", "constant")
    )
    for name in ("train/entropy", "train/kl", "train/clipped_low", "train/clipped_high"):
        assert constant[name] == pytest.approx(token[name]), name
    assert constant["train/loss"] == pytest.approx(token["train/loss"] * constant["train/action_tokens"] / 3000.0)


def test_an_update_makes_rewarded_actions_likelier() -> None:
    model = make_nano()
    optimizer = make_adamw(model, lr=1e-2, weight_decay=0.0)
    good, bad = to_samples(episode(1))[0], to_samples(episode(2))[0]
    before = sample_logprobs(model, [good, bad], Layout(max_tokens=100))
    rows = [unscored(good, advantage=1.0), unscored(bad, advantage=-1.0)]
    loss_fn = make_loss_fn(AlgoConfig(kl_coef=0.0))
    update_policy(model, [optimizer], collate(rows, Layout(max_tokens=100)), loss_fn=loss_fn, grad_clip=1.0)
    after = sample_logprobs(model, [good, bad], Layout(max_tokens=100))
    assert sum(after[0]) > sum(before[0])
    assert sum(after[1]) < sum(before[1])


def test_small_steps_move_bfloat16_weights_as_they_do_float32_ones() -> None:
    weights = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = make_nano().to(torch.bfloat16).to(dtype)
        optimizer = make_adamw(model, lr=1e-5, weight_decay=0.0)
        for _ in range(200):
            torch.autograd.backward([parameter.sum() for parameter in model.parameters()])
            optimizer.step()
            optimizer.zero_grad()
            assert all(parameter.grad is None for parameter in model.parameters())
        assert all(parameter.dtype == dtype for parameter in model.parameters())
        weights[dtype] = dict(model.named_parameters())
    for name, weight in weights[torch.float32].items():
        assert torch.equal(weight.to(torch.bfloat16), weights[torch.bfloat16][name]), name


def test_bfloat16_gradients_add_up_in_float32() -> None:
    model = make_nano().to(torch.bfloat16)
    weight = model.get_input_embeddings().weight
    optimizer = make_adamw(model, lr=1e-5, weight_decay=0.0)
    torch.autograd.backward(weight.sum())
    for _ in range(64):  # each too small to move a bfloat16 1
        torch.autograd.backward(weight.sum() / 512)
    assert weight.grad is None
    [gradient] = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.shape == weight.shape
    ]
    assert torch.equal(gradient, torch.full_like(gradient, 1.125))


def test_bfloat16_weights_may_be_given_to_another_optimizer() -> None:
    model = make_nano().to(torch.bfloat16)
    before = make_adamw(model, lr=1e-5, weight_decay=0.0)
    del before
    optimizer = make_adamw(model, lr=1e-5, weight_decay=0.0)
    torch.autograd.backward([parameter.sum() for parameter in model.parameters()])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(copy.grad is not None for group in optimizer.param_groups for copy in group["params"])


def test_decay_pulls_on_matrices_only() -> None:
    model = make_nano()
    optimizer = make_adamw(model, lr=0.1, weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_the_probe_is_the_same_in_every_run() -> None:
    assert probe_ids(259) == probe_ids(259)
    assert len(probe_ids(259)) == PROBE_TOKENS
    assert max(probe_ids(10)) < 10


@pytest.mark.parametrize("packing", ["packed", "tree"])
def test_a_model_that_does_not_keep_sequences_apart_is_refused(
    packing: Packing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(resolve("nano"), dtype="float32", device="cpu")
    assert choose_packing(model, packing) == packing
    assert choose_packing(model, "auto") == "tree"
    decoder = model.get_decoder()
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda position_ids=None, attention_mask=None, **inputs: forward(**inputs))
    with pytest.raises(ModelError, match=f"does not keep {packing} sequences apart"):
        choose_packing(model, packing)
    assert choose_packing(model, "padded") == "padded"
    assert not caplog.records
    assert choose_packing(model, "auto") == "padded"
    assert "falls back to one row per sequence" in caplog.text


def test_a_model_that_looks_back_a_little_way_only_makes_no_trees() -> None:
    tokens = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    windowed = MistralForCausalLM(MistralConfig(**tokens, **heads, sliding_window=8))
    with pytest.raises(ModelError, match="layers with a limited attention window"):
        choose_packing(windowed, "tree")
    assert choose_packing(windowed, "auto") == "padded"
    assert choose_packing(MistralForCausalLM(MistralConfig(**tokens, **heads, sliding_window=None)), "auto") == "tree"
