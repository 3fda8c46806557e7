"""Muon for weights that ranks hold in parts.

torch's Muon takes such weights, too. It then multiplies parts of matrices and sums the products in bfloat16, in another order than one
process, and makes several collective operations for each matrix. Here each matrix is gathered once, and orthogonalised as a whole.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon, Optimizer

from lzero.train.stored import own_share

SLOT = "momentum_buffer"
"""torch's name of the slot that holds the momentum, so that a run resumes with either optimizer."""
SCALED = "match_rms_adamw"
"""torch's name of steps that have the size of AdamW's."""


class ShardedMuon(Optimizer):
    """Makes the steps of torch's Muon on matrices that are sharded over ranks. All ranks call `step` at the same time.

    Every rank orthogonalises every matrix, one after another, on the device of the computation, and keeps its part of the result.
    """

    def __init__(self, weights: Sequence[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step. Collective."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if SLOT not in state:
                    state[SLOT] = torch.zeros_like(weight.grad)
                momentum = state[SLOT]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonal(gathered(weight.grad.lerp(momentum, group["momentum"])))
                own, share = own_share(weight, direction)
                own.mul_(1 - group["lr"] * group["weight_decay"]).sub_(share.to(own.device), alpha=group["lr"])


def gathered(part: Any) -> Tensor:
    """Return the whole of a sharded tensor, on the device of the computation. Collective."""
    whole: Tensor = part.to(part.device_mesh.device_type).full_tensor()
    return whole


def orthogonal(matrix: Tensor) -> Tensor:
    """Return what torch's Muon subtracts for this gradient at a learning rate of 1, without momentum and decay."""
    moved = torch.nn.Parameter(torch.zeros_like(matrix))
    moved.grad = matrix
    once: Optimizer = Muon([moved], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, adjust_lr_fn=SCALED)
    once.step()
    return -moved.detach()
