"""Divide the samples of an optimiser step over ranks, so that all compute about equally long."""

import heapq
from collections.abc import Sequence

from lzero.algo.layout import Layout, units
from lzero.types import Sample


def divide(samples: Sequence[Sample], layout: Layout, *, parts: int, width: int) -> list[list[int]]:
    """Return the indices of the samples of each rank. `width`: the model's hidden size.

    Samples that share computation (rows of a tree), or an episode if the loss needs it whole, stay together. Which rank gets which
    samples changes the gradient by rounding only.
    """
    wholes = units(samples, layout)
    costs = [sum(operations(row.length, width) for row in rows) for rows in wholes]
    members = [[index for row in rows for index in row.members] for rows in wholes]
    return [sorted(index for number in part for index in members[number]) for part in balanced(costs, parts)]


def operations(length: int, width: int) -> int:
    """Return the operations of a row of so many tokens in a layer, relative to other rows of the same model.

    A layer has about 12 width² weights, so its matrix products take 24 width² operations a token; attention takes 4 width for each key.
    """
    return length * (6 * width + length)


def balanced(costs: Sequence[int], parts: int) -> list[list[int]]:
    """Divide numbered units over parts of nearly equal cost, by the largest differencing method of Karmarkar and Karp.

    Deterministic. Returns the numbers of the units of each part, the most expensive part first; a part may be empty.
    Source: Karmarkar and Karp, "The differencing method of set partitioning", 1982.
    """
    heap = []
    for number, cost in enumerate(costs):
        sets = [(cost, (number,)), *(((0, ()),) * (parts - 1))]
        heap.append((-cost, number, sets))
    heapq.heapify(heap)
    while len(heap) > 1:
        # Join the two divisions with the largest differences, the large sets of one with the small ones of the other.
        _, number, one = heapq.heappop(heap)
        _, _, other = heapq.heappop(heap)
        joined = [(a + b, (*own, *its)) for (a, own), (b, its) in zip(one, reversed(other), strict=True)]
        joined.sort(key=lambda part: (-part[0], part[1]))
        heapq.heappush(heap, (joined[-1][0] - joined[0][0], number, joined))
    return [sorted(units) for _, units in heap[0][2]] if heap else [[] for _ in range(parts)]
