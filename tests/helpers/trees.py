"""Rooted trees, of which each is a condition on a Runge-Kutta method: sum of its elementary weights = 1 / density."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Tree = tuple[Any, ...]
"""A root's subtrees, sorted."""


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees of so many nodes: 1, 1, 2, 4, 9, 20 for orders 1 ... 6."""
    if order == 1:
        return ((),)
    return tuple(sorted(set().union(*(_grown(tree) for tree in trees(order - 1)))))


@cache
def _grown(tree: Tree) -> frozenset[Tree]:
    """The trees with one leaf more."""
    more = {tuple(sorted((*tree, ())))}
    for i, sub in enumerate(tree):
        more |= {tuple(sorted((*tree[:i], bigger, *tree[i + 1 :]))) for bigger in _grown(sub)}
    return frozenset(more)


def nodes(tree: Tree) -> int:
    return 1 + sum(map(nodes, tree))


def density(tree: Tree) -> int:
    return nodes(tree) * int(np.prod([density(sub) for sub in tree], dtype=int))


def weights(tree: Tree, A: Any) -> Any:
    """The elementary weights of the stages."""
    return np.prod([A @ weights(sub, A) for sub in tree], axis=0) if tree else np.ones(len(A))


def square(tableau: Any) -> tuple[Any, Any]:
    """A and b of a tableau as arrays."""
    A = np.zeros((len(tableau.b), len(tableau.b)))
    for i, row in enumerate(tableau.a):
        A[i, : len(row)] = row
    return A, np.array(tableau.b)


def misses(tableau: Any, order: int) -> float:
    """By how much the conditions of one order are missed, at most, relative to the size of the terms."""
    A, b = square(tableau)
    worst = 0.0
    for tree in trees(order):
        size = float(np.abs(b) @ np.abs(weights(tree, np.abs(A))))
        worst = max(worst, abs(float(b @ weights(tree, A)) - 1 / density(tree)) / max(size, 1 / density(tree)))
    return worst
