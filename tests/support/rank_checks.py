"""Compare what two ranks compute with what one process computes: python rank_checks.py FILE, for each rank, with torchrun's variables.

Rank 0 writes name of a case → the relative error of all its gradients and weights, as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from plain_gradient import TOKENIZER, random_groups
from rank_models import Kind, initial_of, rank_model
from torch import Tensor

from lzero.config import Config, make_config
from lzero.train import critic as critics
from lzero.train import muon
from lzero.train import trainer as own_trainers
from lzero.train.attention.interface import use_kernel
from lzero.train.checkpoint import Progress
from lzero.train.critic import Critic, ValueModel
from lzero.train.lora import adapt, adapted_layers, adapter_weights, merged_weights
from lzero.train.optimizers import make_optimizers
from lzero.train.ranks import orders
from lzero.train.ranks import trainer as trainers
from lzero.train.ranks.dispatch import obey_all
from lzero.train.ranks.group import Group, Start
from lzero.train.ranks.member import Member
from lzero.train.ranks.place import Place
from lzero.train.ranks.sharding import Sharding, shard, shard_head
from lzero.train.ranks.trainer import RankTrainer
from lzero.train.stored import own_share
from lzero.train.trainable import recompute_activations
from lzero.train.trainer import Trainer
from lzero.train.ulysses import share_rows
from lzero.types import Group as Episodes

EVERYTHING: dict[str, Any] = {
    "loss": "ppo", "loss_options": {"ratio": "step", "dual_clip": 1.1}, "kl_coef": 0.1, "entropy_coef": 0.05, "importance_cap": 1.5,
}  # fmt: skip
Patch = Callable[[], "ExitStack"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A few optimiser steps, on two ranks and in one process."""

    model: Kind = "float64"
    algo: dict[str, Any] = field(default_factory=lambda: EVERYTHING)
    packing: str = "padded"
    tokens: int = 60
    """Tokens of a micro-batch: few, so that a rank makes several passes, and not as many as the other."""
    seed: int = 0
    num_groups: int = 4
    dtype: torch.dtype | None = None
    offload: bool = False
    reshard: bool = True
    checkpointing: bool = False
    sequence_ranks: int = 1
    optimizer: Literal["muon"] | None = None
    """None: plain gradient descent, which records its gradients. Muon rounds to bfloat16, so its gradients have to agree to 1e-9."""
    lora: int = 0
    """Rank of the adapters."""
    samples: int | None = None
    """How many samples the ranks share; None: all."""
    clip: float = 1e9
    critic: Literal["none", "model", "head"] = "none"
    broken: Callable[[], Any] = ExitStack

    @property
    def config(self) -> Config:
        train = {
            "packing": self.packing, "micro_batch_tokens": self.tokens, "grad_clip": self.clip, "lr": 0.05, "minibatches": 2, "epochs": 2,
            "sequence_ranks": self.sequence_ranks,
        }  # fmt: skip
        train |= {"optimizer": self.optimizer} if self.optimizer else {}
        train = train if self.num_groups > 1 else train | {"minibatches": 1}
        algo = self.algo if self.critic == "none" else self.algo | {"estimator": "bilevel_gae"}
        critic = {"kind": self.critic, "epochs": 2}
        return make_config({"algo": algo, "train": train, "critic": critic, "lora": {"rank": self.lora, "alpha": 2}})

    @property
    def groups(self) -> list[Episodes]:
        return random_groups(self.seed)[: self.num_groups]


class Recording(torch.optim.SGD):
    """Plain gradient descent, which keeps its gradients."""

    def __init__(self, model: Any) -> None:
        super().__init__([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
        self.found: list[Tensor] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self.found.append(whole(gradient).clone())
        super().step()


def whole(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found.detach()


def trainer_of(case: Case, group: Group | None = None) -> Trainer:
    """Return the trainer of a case: whole, or this rank's part of it."""
    model = rank_model(case.model)
    reference = initial_of(model).requires_grad_(False)
    if case.checkpointing:
        recompute_activations(model)
    config = case.config
    trunk = rank_model(case.model)
    if case.lora:
        model = with_adapter(model if case.dtype is None else model.to(case.dtype), config)
    if group is not None:
        how = Sharding(dtype=case.dtype or model.dtype, offload=case.offload, reshard=case.reshard)
        model, reference, trunk = (shard(each, group.mesh, how) for each in (model, reference, trunk))
        if case.sequence_ranks > 1:
            for each in (model, reference, trunk):
                use_kernel(each, "paths")
                share_rows(each, group.neighbours(case.sequence_ranks))
    critic = None if case.critic == "none" else critic_of(case, trunk if case.critic == "model" else model)
    if critic is not None and group is not None:
        shard_head(critic.head, group.mesh, how)
    assert config.train.packing != "auto"
    return Trainer(
        critic=None if critic is None else trained(critic, case),
        config=config,
        model=model,
        tokenizer=TOKENIZER,
        reference=model if case.lora else reference,
        optimizers=make_optimizers(model, config.train) if case.optimizer else [Recording(model)],
        packing=config.train.packing,
    )


def with_adapter(model: Any, config: Config) -> Any:
    """Give a model an adapter that changes it, so that both of its factors have a gradient."""
    adapt(model, config)
    torch.manual_seed(4)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.2)
    return model


def sent(trainer: Trainer) -> dict[str, Tensor]:
    """Return what engines get: the weights, with an adapter merged, and the adapter alone."""
    merged = dict(merged_weights(trainer.weights(), trainer.model))
    return merged | (dict(adapter_weights(trainer.weights().adapter())) if trainer.config.lora.rank else {})


def trained(critic: ValueModel, case: Case) -> Critic:
    return Critic(model=critic, optimizers=[Recording(critic)], settings=case.config.critic, grad_clip=case.clip)


def critic_of(case: Case, trunk: Any) -> ValueModel:
    """Return a critic with a random head, so that its trunk has a gradient from the first step on."""
    critic = ValueModel(trunk, learns=case.critic == "model")
    torch.manual_seed(3)
    torch.nn.init.normal_(critic.head.weight)
    return critic


def learned(trainer: Trainer, case: Case) -> dict[str, float]:
    """Make the optimiser steps of one update, and return its metrics."""
    samples = trainer.samples(case.groups)
    scores = trainer.score(samples)
    advantages = trainer.credit(case.groups, samples, scores, update=0)
    return trainer.update(trainer.scored(samples, scores, advantages)[: case.samples], update=0)


def result(trainer: Trainer, weights: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the recorded gradients of all steps, and the weights after them; with a critic, its gradients, too."""
    found = []
    for optimizer in trainer.all_optimizers:
        if isinstance(optimizer, Recording):
            found.append(flat(optimizer.found))
    return (*found, flat(weights[name] for name in sorted(weights)))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def distance(own: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> float:
    """Return the largest relative error."""
    return max(float((one - its).norm() / its.norm()) for one, its in zip(own, other, strict=True))


def on_ranks(case: Case, group: Group) -> tuple[tuple[Tensor, ...], dict[str, float]] | None:
    """Return gradients and weights of a case, and its metrics; None on ranks that obey."""
    member = Member(group=group, trainer=trainer_of(case, group))
    if group.rank:
        obey_all(group, member)
        return None
    trainer = RankTrainer.of(member)
    metrics = learned(trainer, case)
    if (
        not case.reshard
    ):  # after passes without backward ones, the parameters are parts again, whose moments can be named
        trainer.score(trainer.samples(case.groups))
        trainer.snapshot(Progress(), None).state.forget()
    found = result(trainer, sent(trainer))
    trainer.dispatcher.stop()
    return found, metrics


def alone(case: Case) -> tuple[tuple[Tensor, ...], dict[str, float]]:
    trainer = trainer_of(case)
    metrics = learned(trainer, case)
    return result(trainer, sent(trainer)), metrics


@contextmanager
def changed(where: Any, name: str, made: Callable[[Any], Any]) -> Iterator[None]:
    with mock.patch.object(where, name, made(getattr(where, name))):
        yield


def on_rank_one_twice(divide: Any) -> Any:
    def broken(*given: Any, **named: Any) -> list[list[int]]:
        first, second = divide(*given, **named)
        return [first, [*second, first[0]]]

    return broken


def one_row_lost(lay_out_all: Any) -> Any:
    def broken(scored: Any, weights: Any, layout: Any) -> Any:
        number = -1 if os.environ["RANK"] == "1" else None
        return lay_out_all(scored[:number], weights[:number], layout)

    return broken


def ranks_exchanged(divide: Any) -> Any:
    return lambda *given, **named: divide(*given, **named)[::-1]


def weights_of_the_rank(lay_out_all: Any) -> Any:
    def broken(scored: Any, weights: Any, layout: Any) -> Any:
        total = sum(map(sum, weights)) or 1.0
        return lay_out_all(scored, [[value / total for value in row] for row in weights], layout)

    return broken


def anchors_that_count(anchor: Any) -> Any:
    def broken() -> Any:
        micro = anchor()
        return replace(micro, weights=micro.weights + 0.01, advantages=micro.advantages + 1.0)

    return broken


def rates_of_their_own(set_rate: Any) -> Any:
    return lambda optimizers, lr: set_rate(optimizers, lr if os.environ["RANK"] == "0" else 2 * lr)


def own_part_alone(gathered: Any) -> Any:
    """Let a rank orthogonalise its own part of a matrix, as if the rest were 0."""

    def broken(part: Any) -> Tensor:
        whole = torch.zeros(part.shape, dtype=part.dtype)
        share = own_share(part, whole)[1]
        share.copy_(part.to_local())
        return whole

    return broken


def always_on(without_adapter: Any) -> Any:
    return nullcontext


def averaged(shard: Any) -> Any:
    def broken(model: Any, *given: Any) -> Any:
        sharded = shard(model, *given)
        for module in sharded.modules():
            if hasattr(module, "set_gradient_divide_factor"):
                module.set_gradient_divide_factor(2.0)
                module.set_force_sum_reduction_for_comms(True)
        return sharded

    return broken


MUTATIONS: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "gradients are averaged": (sys.modules[__name__], "shard", averaged),
    "a row is on two ranks": (trainers, "divide", on_rank_one_twice),
    "a row is lost": (orders, "lay_out_all", one_row_lost),
    "weights are those of a rank": (orders, "lay_out_all", weights_of_the_rank),
    "anchors count": (orders, "anchor", anchors_that_count),
    "the critic's anchors count": (critics, "anchor", anchors_that_count),
    "a rank has another rate": (orders, "set_rate", rates_of_their_own),
    "muon has a part of a matrix": (muon, "gathered", own_part_alone),
    "the adapter's reference has it on": (own_trainers, "without_adapter", always_on),
}
CASES: dict[str, Case] = {
    "padded": Case(),
    "packed": Case(packing="packed"),
    "tree": Case(packing="tree"),
    "whole episodes": Case(algo=EVERYTHING | {"loss_options": {"ratio": "episode"}}),
    "plain": Case(algo={"kl_coef": 0.0, "loss": "policy_gradient"} | {"loss": "ppo"}, seed=5),
    "one group": Case(num_groups=1, tokens=10_000),
    "more ranks than rows": Case(samples=1),
    "clipped": Case(clip=0.01),
    "checkpointing": Case(checkpointing=True),
    "offload": Case(offload=True),
    "kept weights": Case(reshard=False),
    "ranks exchanged": Case(broken=lambda: changed(trainers, "divide", ranks_exchanged)),
    "tied": Case(model="tied"),
    "untied": Case(model="untied"),
    "tied, everything": Case(model="tied", packing="tree", checkpointing=True, offload=True),
    "critic": Case(critic="model", packing="tree", offload=True, checkpointing=True),
    "critic, more ranks than rows": Case(critic="model", samples=1),
    "critic, tied": Case(critic="model", model="tied"),
    "critic on the policy's states": Case(critic="head", packing="packed", reshard=False),
    "critic, shared rows": Case(critic="model", sequence_ranks=2, packing="tree"),
    "critic on the policy's states, shared rows": Case(critic="head", sequence_ranks=2, packing="packed"),
    "muon": Case(optimizer="muon"),
    "bfloat16": Case(model="untied", dtype=torch.bfloat16),
    "adapter": Case(lora=2, reshard=False),
    "adapter, everything": Case(lora=2, packing="tree", checkpointing=True, offload=True),
    "adapter, untied": Case(lora=2, model="untied"),
    "adapter, shared rows": Case(lora=2, packing="packed", sequence_ranks=2),
    "adapter on bfloat16": Case(lora=2, model="tied", dtype=torch.bfloat16),
    "shared rows": Case(sequence_ranks=2),
    "shared rows, packed": Case(sequence_ranks=2, packing="packed"),
    "shared rows, untied, tree, everything": Case(
        sequence_ranks=2, model="untied", packing="tree", checkpointing=True, offload=True
    ),
}
BROKEN: dict[str, Case] = {
    name: Case(
        samples=1 if "anchors" in name else None,
        critic="model" if "critic" in name else "none",
        lora=2 if "adapter" in name else 0,
        optimizer="muon" if "muon" in name else None,
        broken=partial(changed, *place),
    )
    for name, place in MUTATIONS.items()
}


def main(file: Path) -> None:
    place = Place.from_environment(os.environ)
    assert place is not None
    torch.set_num_threads(1)
    group = Group.join(place, start=None if place.rank else Start(device="cpu", timeout_s=300))
    found: dict[str, dict[str, float]] = {}
    for name, case in (CASES | BROKEN).items():
        start = time.monotonic()
        with case.broken():
            made = on_ranks(case, group)
        print(name, round(time.monotonic() - start, 2), flush=True)
        if made is not None:
            right, metrics = alone(case)
            gaps = {each: abs(value - made[1][each]) for each, value in metrics.items() if each != "train/padding"}
            found[name] = {"error": distance(made[0], right), "metrics": max(gaps.values())}
    if place.rank == 0:
        file.write_text(json.dumps(found))
    group.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
