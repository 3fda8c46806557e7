"""Estimates of the divergence between two policies."""

import torch
from torch import Tensor


def kl_estimate(policy: Tensor, reference: Tensor, kind: str) -> Tensor:
    """Return an estimate of KL(π ‖ π_ref) for each token, in nats (Schulman, "Approximating KL divergence"); d = log π_ref − log π.

    `policy`, `reference`: log-probabilities [N] of sampled tokens. In the loss only the gradient matters. Over samples of π:

        kind                 value                                 gradient
        k1   −d              unbiased                              0 on average: a penalty in the reward only
        k2   d²/2            biased                                that of KL(π ‖ π_ref)
        k3   exp(d) − 1 − d  unbiased and never negative (L0's)    that of KL(π_ref ‖ π)
    """
    difference = reference - policy
    if kind == "k1":
        return -difference
    if kind == "k2":
        return difference.square() / 2
    return torch.expm1(difference) - difference
