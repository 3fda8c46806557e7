"""What two ranks load, send and save, beside what one process has. A program for every rank: python rank_state.py DIRECTORY, with
torchrun's variables. Rank n writes name of a check → what was wrong, "" for nothing, to DIRECTORY/found-n.json.

DIRECTORY holds the models `tied` and `untied`, and `alone`, a checkpoint of the tied model that one process has written.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from adamw import make_adamw
from plain_gradient import TOKENIZER, random_groups
from torch import Tensor

from lzero.config import Config, make_config
from lzero.models import load_model
from lzero.train.checkpoint import Progress, Snapshot, restore_optimizers, save_checkpoint
from lzero.train.preflight.memory import check_memory
from lzero.train.ranks.checkpoint import ShardedState, write_when_told
from lzero.train.ranks.dispatch import obey_all
from lzero.train.ranks.group import Group, Start
from lzero.train.ranks.loading import load_parts, skeleton
from lzero.train.ranks.member import Member, build_member
from lzero.train.ranks.place import Place
from lzero.train.ranks.sharding import Sharding, shard
from lzero.train.ranks.trainer import RankTrainer
from lzero.train.ranks.weights import ShardedWeights
from lzero.train.state import state_tensors
from lzero.train.stored import own_parts
from lzero.train.trainer import Trainer

UPDATES = 2
RATE = 1e-3


def whole(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found.detach()


def different(own: Mapping[str, Any], right: Mapping[str, Tensor], *, by: float = 0.0) -> str:
    """Return the first name whose tensors differ by more than `by`, or are missing. Collective for sharded tensors."""
    tensors = {name: whole(tensor) for name, tensor in own.items()}
    for name in sorted(tensors.keys() | right.keys()):
        if name not in tensors or name not in right or tensors[name].dtype != right[name].dtype:
            return f"{name} is missing or of another type"
        gap = float((tensors[name].double() - right[name].detach().double()).abs().max())
        if not gap <= by:
            return f"{name} differs by {gap}"
    return ""


def slots(model: Any, optimizers: Sequence[torch.optim.Optimizer], critic: Any = None) -> dict[str, Tensor]:
    """Return the tensors of optimizers and critic; the random state is a rank's own until it resumes with that of rank 0."""
    found = state_tensors(model, optimizers, critic=critic)
    return {name: tensor for name, tensor in found if not name.startswith("random")}


def held(trainer: Trainer) -> dict[str, Tensor]:
    return dict(trainer.model.named_parameters())


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Return all that a trainer learns."""
    return slots(trainer.model, trainer.all_optimizers, trainer.critic_model) | held(trainer)


def update(trainer: Trainer, number: int) -> None:
    """Make an update from random episodes."""
    groups = random_groups(number)
    samples = trainer.samples(groups)
    scores = trainer.score(samples)
    trainer.update(
        trainer.scored(samples, scores, trainer.credit(groups, samples, scores, update=number)), update=number
    )


def first(*problems: str) -> str:
    """Return the first problem; all were looked for, because that is collective."""
    return next(filter(None, problems), "")


def learn(model: Any, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Make an optimiser step on the same row on every rank, whose gradients are summed: a rank's counts for its part."""
    ids = torch.arange(8).unsqueeze(0) + number
    share = 1.0 / (torch.distributed.get_world_size() if hasattr(next(model.parameters()), "placements") else 1)
    torch.autograd.backward(share * model(input_ids=ids, labels=ids).loss)
    optimizer.step()
    optimizer.zero_grad()


class Checks:
    def __init__(self, group: Group, directory: Path) -> None:
        self.group = group
        self.directory = directory

    def loaded(self, name: str, dtype: torch.dtype = torch.float32, *, offload: bool = False) -> Any:
        how = Sharding(dtype=dtype, offload=offload)
        return load_parts(
            self.directory / name,
            dtype="float32",
            device="cpu",
            prepare=lambda model: shard(model, self.group.mesh, how),
        )

    def loads(self, name: str) -> str:
        """The parts of all ranks are the model, with its buffers; they compute as it does; and each rank holds about half of it."""
        model, right = self.loaded(name), load_model(self.directory / name, dtype="float32", device="cpu")
        ids = torch.arange(12).unsqueeze(0)
        with torch.no_grad():
            outputs = {"logits": model(input_ids=ids).logits}, {"logits": right(input_ids=ids).logits}
        held = sum(parameter.to_local().numel() for parameter in model.parameters())
        total = sum(parameter.numel() for parameter in right.parameters())
        return first(
            different(dict(model.named_parameters()), dict(right.named_parameters())),
            different(dict(model.named_buffers()), dict(right.named_buffers())),
            different(outputs[0], outputs[1], by=1e-5),
            "too much is held" if held > 0.6 * total else "",
        )

    def sends(self, name: str, dtype: torch.dtype) -> str:
        """All weights arrive once, in the type of the computation, as they were announced; also after an iteration that was broken off."""
        model, right = self.loaded(name, dtype), load_model(self.directory / name, dtype="float32", device="cpu")
        weights = ShardedWeights(model)
        if self.group.rank:
            weights.follow()
            weights.follow()
            return ""
        begun = iter(weights)
        next(begun)
        begun.close()
        tensors = dict(weights)
        announced = {each: (tensor.shape, tensor.dtype) for each, tensor in weights.outline}
        if announced != {each: (tensor.shape, tensor.dtype) for each, tensor in tensors.items()}:
            return "another outline"
        return different(tensors, {each: tensor.detach().to(dtype) for each, tensor in right.named_parameters()})

    def resumes(self, dtype: torch.dtype) -> str:
        """Weights, moments and float32 weights of two ranks are those of one process that loads their checkpoint, and of two ranks."""
        model = self.loaded("tied", dtype)
        optimizer = make_adamw(model, lr=RATE, weight_decay=0.01)
        for number in range(UPDATES):
            learn(model, optimizer, number)
        path = self.saved(model, optimizer, dtype)
        state = {name: whole(tensor) for name, tensor in slots(model, [optimizer]).items()}
        again = self.restored(path, dtype)
        alone = load_model(path, dtype=str(dtype).removeprefix("torch."), device="cpu")
        own = make_adamw(alone, lr=RATE, weight_decay=0.01)
        restore_optimizers(path, alone, [own])
        problems = [
            different(slots(*again), state),
            different(slots(alone, [own]), state),
        ]
        for trained in ((model, optimizer), (again[0], again[1][0]), (alone, own)):
            learn(*trained, UPDATES)
        later = {name: whole(tensor) for name, tensor in model.named_parameters()}
        problems.append(different(dict(again[0].named_parameters()), later))
        if dtype == torch.float32:  # in bfloat16 the order of sums shows
            problems.append(different(dict(alone.named_parameters()), later, by=1e-6))
        return first(*problems)

    def takes_over(self) -> str:
        """Two ranks have the weights and moments that one process has saved."""
        path = self.directory / "alone" / f"update-{UPDATES:06d}"
        model, optimizers = self.restored(path, torch.float32)
        alone = load_model(path, dtype="float32", device="cpu")
        own = make_adamw(alone, lr=RATE, weight_decay=0.01)
        restore_optimizers(path, alone, [own])
        return first(
            different(dict(model.named_parameters()), dict(alone.named_parameters())),
            different(slots(model, optimizers), slots(alone, [own])),
        )

    def resumes_with_critic(self, kind: Literal["model", "head"]) -> str:
        """A run with a critic, saved while it warms up, goes on from its checkpoint on two ranks and in one process."""
        return self.goes_on(f"with {kind}", learns="critic.head", settings={
            "algo": {"estimator": "gae"},
            "critic": {"kind": kind, "epochs": 2, "lr": 1e-4, "warmup_updates": 1},
            "train": {"lr": 1e-4, "reshard": kind == "model"},
        })  # fmt: skip

    def resumes_with_muon(self) -> str:
        """A run with Muon goes on from its checkpoint on two ranks and in one process. Its steps round to bfloat16."""
        return self.goes_on("with muon", learns="model.layers.0.mlp.up_proj", by=1e-5, settings={
            "train": {"lr": 1e-4, "optimizer": "muon"},
        })  # fmt: skip

    def resumes_with_adapter(self, dtype: str, *, offload: bool) -> str:
        """A run with an adapter begins on two ranks as in one process, and goes on from its checkpoint on both."""
        rounding = 1e-6 if dtype == "float32" else 1.0
        return self.goes_on(f"with adapter in {dtype}", learns="model.layers.0.mlp.up_proj.lora_", by=rounding, settings={
            "model": {"dtype": dtype},
            "algo": {"kl_coef": 0.1},
            "lora": {"rank": 3},
            "train": {"lr": 1e-4, "offload": offload},
        })  # fmt: skip

    def goes_on(self, name: str, *, learns: str, settings: dict[str, dict[str, Any]], by: float = 1e-6) -> str:
        """A run is the same on two ranks and in one process: at its beginning, when it resumes, and, up to rounding, an update later.

        `learns`: beginning of the names of weights that the last update changes. `by`: what rounding may change.
        """
        base: dict[str, dict[str, Any]] = {
            "model": {"path": str(self.directory / "tied"), "dtype": "float32", "device": "cpu"},
            "agent": {"max_tokens": 64, "response_tokens": 16},
            "train": {"ranks": 2, "micro_batch_tokens": 128},
        }
        config = make_config({key: base.get(key, {}) | settings.get(key, {}) for key in base | settings})
        directory = self.directory / name

        def first_update(trainer: RankTrainer) -> None:
            check_memory(trainer)
            update(trainer, 0)
            save_checkpoint(directory, trainer.snapshot(Progress(update=1), None), keep=1)

        def next_update(trainer: RankTrainer) -> None:
            update(trainer, 1)

        path = directory / "update-000001"
        member, _ = build_member(config, self.group)
        alone, _ = Trainer.build(config)
        begun = different(held(member.trainer), held(alone))
        self.commanded(member, first_update)
        saved = {name: whole(tensor).clone() for name, tensor in everything(member.trainer).items()}
        again, _ = build_member(config, self.group, checkpoint=path)
        alone, _ = Trainer.build(config, checkpoint=path)
        problems = [begun, different(everything(again.trainer), saved), different(everything(alone), saved)]
        for each in (member, again):
            self.commanded(each, next_update)
        update(alone, 1)
        later = {name: whole(tensor) for name, tensor in everything(member.trainer).items()}
        unchanged = [name for name in later if name.startswith(learns) and torch.equal(later[name], saved[name])]
        return first(
            *problems,
            different(everything(again.trainer), later),
            different(everything(alone), later, by=by),
            f"{unchanged} did not learn" if unchanged else "",
        )

    def commanded(self, member: Member, work: Callable[[RankTrainer], None]) -> None:
        """Let rank 0 do some work, for which the others obey it."""
        if self.group.rank:
            obey_all(self.group, member)
            return
        trainer = RankTrainer.of(member)
        work(trainer)
        trainer.dispatcher.stop()

    def restored(self, path: Path, dtype: torch.dtype) -> tuple[Any, list[torch.optim.Optimizer]]:
        model = self.loaded(str(path), dtype)
        optimizers: list[torch.optim.Optimizer] = [make_adamw(model, lr=RATE, weight_decay=0.01)]
        restore_optimizers(path, model, optimizers)
        return model, optimizers

    def saved(self, model: Any, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> Path:
        group, own = self.group, state_tensors(model, [optimizer])
        weights = ShardedWeights(model)
        directory = self.directory / str(dtype)
        if group.rank:
            weights.follow()
            write_when_told(own_parts(own, first=False), group, number=UPDATES).join(60.0)
        else:
            snapshot = Snapshot(
                model=skeleton(model, dtype=str(dtype).removeprefix("torch.")),
                tokenizer=TOKENIZER,
                weights=dict(weights),
                state=ShardedState(own_parts(own, first=True), group, number=UPDATES, wait_s=60.0),
                config=Config(),
                progress=Progress(update=UPDATES),
            )
            save_checkpoint(directory, snapshot, keep=1)
        torch.distributed.barrier()
        return directory / f"update-{UPDATES:06d}"


def main(directory: Path) -> None:
    place = Place.from_environment(os.environ)
    assert place is not None
    torch.set_num_threads(1)
    group = Group.join(place, start=None if place.rank else Start(device="cpu", timeout_s=60))
    checks = Checks(group, directory)
    bfloat16, float32 = torch.bfloat16, torch.float32
    cases: dict[str, Callable[[], str]] = {
        "loads tied": partial(checks.loads, "tied"),
        "loads untied": partial(checks.loads, "untied"),
        "sends tied": partial(checks.sends, "tied", float32),
        "sends untied in bfloat16": partial(checks.sends, "untied", bfloat16),
        "resumes": partial(checks.resumes, float32),
        "resumes in bfloat16": partial(checks.resumes, bfloat16),
        "takes over": checks.takes_over,
        "resumes with a critic": partial(checks.resumes_with_critic, "model"),
        "resumes with a head": partial(checks.resumes_with_critic, "head"),
        "resumes with muon": checks.resumes_with_muon,
        "resumes with an adapter": partial(checks.resumes_with_adapter, "float32", offload=True),
        "resumes with an adapter on bfloat16": partial(checks.resumes_with_adapter, "bfloat16", offload=False),
    }
    found = {}
    for name, check in cases.items():
        found[name] = check()
    (directory / f"found-{place.rank}.json").write_text(json.dumps(found))
    group.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
