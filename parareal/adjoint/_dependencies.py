"""What a right-hand side depends on: the tensors for which a backward pass has to return gradients.

The graph of one step says which tensors it used, and is believed. Objects that the right-hand side refers to are
searched as well, for two reasons: parameters that this one step did not use (another branch), and tensors that were
computed from others, such as the output of an encoder, which the graph does not hold as objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parareal._core.references import tensors_of

_CAST = "ToCopyBackward0"
"""The copy of a parameter in another precision, which autocast keeps from earlier calls."""

Edge = tuple[Any, int]
"""A node of an autograd graph, and the number of its output."""


class Reached(NamedTuple):
    """Where a graph comes from.

    Attributes:
        leaves: The leaf tensors that it ends in.
        inner: Tensors computed before it that it ends in, of those that were known.
        unknown: The names of operations from before it that gave it a tensor which was not known.
    """

    leaves: list[Tensor]
    inner: list[Tensor]
    unknown: list[str]


def now(threads: bool = False) -> int:
    """A mark: nodes of graphs that are made after this moment, in this thread, have at least this number.

    Nodes of other threads have numbers of their own: with ``threads`` none counts as older.
    """
    if threads:
        return -1
    with torch.enable_grad():
        node: Any = torch.zeros((), requires_grad=True).view_as(torch.zeros(())).grad_fn
    return node._sequence_nr()


def reached(outputs: Iterable[Tensor], mark: int, known: Iterable[Tensor] = ()) -> Reached:
    """What the graph of ``outputs``, as far as it is younger than ``mark``, was made of."""
    inner = {_edge(tensor): tensor for tensor in known if tensor.grad_fn is not None}
    out = Reached([], [], [])
    waiting: list[Edge] = []
    for one in outputs:
        if one.grad_fn is not None:
            waiting.append(_edge(one))
        elif one.requires_grad:
            out.leaves.append(one)
    seen: set[Edge] = set()
    while waiting:
        node, number = waiting.pop()
        if (node, number) in seen:
            continue
        seen.add((node, number))
        if hasattr(node, "variable"):
            out.leaves.append(node.variable)
        elif (node, number) in inner:
            out.inner.append(inner[node, number])
        elif node._sequence_nr() < mark and node.name() != _CAST:
            out.unknown.append(node.name())
        else:
            waiting.extend((more, at) for more, at in node.next_functions if more is not None)
    return Reached(_each_once(out.leaves), _each_once(out.inner), sorted({*out.unknown}))


def dependencies(
    things: Iterable[Any], stepped: Iterable[Tensor], mark: int, apart: Iterable[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors with a gradient that a right-hand side depends on, and those on which it may.

    Args:
        things: Objects that it consists of, such as the problem.
        stepped: The outcome of one step with it, with its graph.
        mark: What `now` returned before the step.
        apart: Tensors that get gradients by another way.

    Raises:
        ValueError: It uses a tensor that was computed from others and is not to be found, or one that was computed
            from another that it also uses.
    """
    others = {id(tensor) for tensor in apart}
    held = [one for thing in things for one in tensors_of(thing) if one.requires_grad and id(one) not in others]
    found = reached(stepped, mark, [one for one in held if not one.is_leaf])
    if found.unknown:
        raise ValueError(
            "the right-hand side uses a tensor that was computed with gradients, by "
            f"{', '.join(found.unknown)}, and that is not found among what it refers to; expected such tensors in its "
            "closure or in attributes of its object, or as per_sample data, or gradients='unroll'"
        )
    above, nodes = _above(found.inner)
    twice = any(id(leaf) in above for leaf in found.leaves) or any(_edge(one)[0] in nodes for one in found.inner)
    if twice:
        raise ValueError(
            "the right-hand side uses a tensor and also another one that was computed from it, so that its gradient "
            "cannot be told apart; expected one of them: compute the other inside of it, or take gradients='unroll'"
        )
    rest = [one for one in held if one.is_leaf and id(one) not in above]
    used = [*found.leaves, *found.inner]
    return used, _each_once([one for one in rest if all(one is not other for other in used)])


def check_all_known(outputs: Iterable[Tensor], mark: int, known: Iterable[Tensor]) -> None:
    """Raises if a graph uses tensors with gradients that are not known."""
    known = list(known)
    found = reached(outputs, mark, known)
    ids = {id(one) for one in known}
    lost = found.unknown + [f"one of shape {tuple(one.shape)}" for one in found.leaves if id(one) not in ids]
    if lost:
        raise RuntimeError(
            f"the right-hand side used tensors that need gradients ({', '.join(lost)}), of which the step from which "
            "its parameters were found knew nothing; expected every parameter in its closure or in attributes of its "
            "object, or gradients='unroll'"
        )


def _edge(tensor: Tensor) -> Edge:
    return tensor.grad_fn, tensor.output_nr


def _above(inner: list[Tensor]) -> tuple[set[int], set[Any]]:
    """The leaves from which tensors were computed, by identity, and the nodes on the way, without their own."""
    leaves, nodes = set[int](), set[Any]()
    waiting = [more for one in inner for more, _ in _edge(one)[0].next_functions]
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting.extend(more for more, _ in node.next_functions)
    return leaves, nodes


def _each_once(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(one): one for one in tensors}.values())
