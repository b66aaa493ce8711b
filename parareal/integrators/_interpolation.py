"""Weights of values at any nodes in a step, from exact integration of the polynomial through them.

Adams methods, exponential ones among them, and the solvers of diffusion models that extrapolate earlier model outputs
all are this one formula with other nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial
from typing import TypeAlias

import torch
from torch import Tensor

from parareal.problem._semilinear import Factors, Weights, beside_factor

Moments: TypeAlias = Callable[[Weights, int], list[Factors]]
"""``moments(weights, m)``: with m nodes beside the one at 0, the contributions of x^1 ... x^m to the step."""


def exact(weights: Weights, m: int) -> list[Factors]:
    """The integrals themselves: i! phi[i] of x^i."""
    return [tuple(part * factorial(i) for part in weights.phi[i]) for i in range(1, m + 1)]


def node_weights(weights: Weights, nodes: Sequence[Tensor], known: Tensor, moments: Moments = exact) -> list[Factors]:
    """The weights of N at 0 and at other nodes.

    Args:
        weights: The weights of the step.
        nodes: Other points with known N, in the variable of the step that goes from 0 to 1: m tensors ``(L,)``.
        known: How many of the nodes, counted from the first, there are on each lane; int, ``(L,)``.
        moments: The contributions of powers of the variable.

    Returns:
        Weights of N at 0 and at each node; zero for unknown nodes.
    """
    m, parts = len(nodes), len(weights.phi[0])
    if m == 0:
        return [weights.phi[0]]
    # On the CPU, where the check costs no wait for a device: most steps have all their nodes, so there is one case.
    all_known = known.device.type == "cpu" and bool((known == m).all())
    columns: list[list[Tensor]] = []
    for part in range(parts):
        like = weights.phi[0][part]
        if all_known:
            x = [beside_factor(node, like) for node in nodes]
            y = _vandermonde(x, [moment[part] for moment in moments(weights, m)])
            chosen = [y[j] / x[j] for j in range(m)]
        else:
            x = [beside_factor(torch.where(known > j, node, float(j + 2)), like) for j, node in enumerate(nodes)]
            chosen = _of_each_count(x, known, weights, moments, part)
        first = like
        for weight in chosen:
            first = first - weight
        columns.append([first, *chosen])
    return [tuple(column[j] for column in columns) for j in range(m + 1)]


def _of_each_count(x: list[Tensor], known: Tensor, weights: Weights, moments: Moments, part: int) -> list[Tensor]:
    """The weights of the known nodes of each lane."""
    like = weights.phi[0][part]
    count = beside_factor(known, like)
    chosen = [torch.zeros_like(like) for _ in x]
    for c in range(1, len(x) + 1):
        y = _vandermonde(x[:c], [moment[part] for moment in moments(weights, c)])
        for j in range(c):
            chosen[j] = torch.where(count == c, y[j] / x[j], chosen[j])
    return chosen


def _vandermonde(x: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Y with sum_j y_j x_j^i = b_i.

    Source:
        A. Bjorck, V. Pereyra, Solution of Vandermonde systems of equations, Math. Comp. 24 (1970).
    """
    b, n = list(b), len(b) - 1
    for k in range(n):
        for i in range(n, k, -1):
            b[i] = b[i] - x[k] * b[i - 1]
    for k in range(n - 1, -1, -1):
        for i in range(k + 1, n + 1):
            b[i] = b[i] / (x[i] - x[i - k - 1])
        for i in range(k, n):
            b[i] = b[i] - b[i + 1]
    return b
