"""Paths whose increments are given."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.grid._time_grid import TimeGrid
from parareal.problem._noise_path import NoisePath


@dataclass(frozen=True, eq=False)
class FrozenPath(NoisePath):
    """A path whose increments are given, for instance those of a published run.

    Args:
        points: Ends of the atoms, float64, ``(n + 1,)``, strictly rising or strictly falling.
        dw: W(points[i+1]) - W(points[i]), a tree of leaves ``(n, *shape)``, where the shapes are those of the problem's
            noise: of the state's leaves, or ``()`` for scalar noise, or ``(channels,)``.
        dz: Integrals of W(s) - W(points[i]) ds over the atoms, a tree like ``dw``; needed by `SRA1`.
        samples: Leaves are ``(n, B, *shape)``, a path for each of B samples. Else all samples share one.

    Raises:
        TypeError: ``dw`` or ``dz`` holds something other than real floating point tensors.
        ValueError: They have another number of atoms, differ in shape, or are not finite.

    Examples:
        >>> import torch
        >>> path = FrozenPath(torch.linspace(0.0, 1.0, 5), torch.tensor([0.5, -0.25, 0.0, 1.0]))
        >>> t0, t1 = torch.tensor([[0.0], [0.5]], dtype=torch.float64)
        >>> path.increments(t0, t1, like=torch.zeros(1))
        tensor([0.2500])
    """

    points: Tensor
    dw: State
    dz: State = None
    samples: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", TimeGrid.from_points(self.points, 1).points)
        atoms = len(self.points) - 1
        for name, tree in (("dw", self.dw), ("dz", self.dz)):
            for leaf in trees.leaves(tree) if tree is not None else []:
                if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                    came = f"a tensor of {leaf.dtype}" if isinstance(leaf, Tensor) else described(leaf)
                    raise TypeError(f"{name} holds {came}; expected real floating point tensors")
                if leaf.ndim < 1 + self.samples or leaf.shape[0] != atoms:
                    raise ValueError(
                        f"{name} has shape {tuple(leaf.shape)}; expected ({atoms}, {'samples, ' * self.samples}...), "
                        f"one increment for each of the {atoms} intervals between the {atoms + 1} points"
                    )
                if not bool(torch.isfinite(leaf).all()):
                    raise ValueError(f"{name} holds NaN or infinite increments; expected finite ones")
        like = self.dw if self.dz is None else self.dz
        if [leaf.shape for leaf in trees.leaves(like)] != [leaf.shape for leaf in trees.leaves(self.dw)]:
            raise ValueError("dz has other shapes than dw; expected the same, one area for each increment")

    def keys(self, samples: int | None) -> Tensor:
        """See `NoisePath.keys`: the number of a sample."""
        given = trees.leaves(self.dw)[0].shape[1] if self.samples else None
        if given not in (None, samples):
            many = "one system" if samples is None else f"{samples} samples"
            raise ValueError(f"the path has increments for {given} samples and is for {many}; expected as many")
        rows = [(0, 0, i) for i in range(1 if samples is None else samples)]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)

    def draw(self, index: Tensor, like: State, keys: Tensor, area: bool) -> list[Tensor]:
        """The increments; for areas, what they have beside h dW / 2."""
        self.check(like)
        given = [self._rows(leaf, index, keys) for leaf in trees.leaves(self.dw)]
        if area:
            points = self.at("points", index.device)
            h = points[index + 1] - points[index]
            given = [
                self._rows(leaf, index, keys) - 0.5 * h.reshape(*h.shape, *[1] * (rows.ndim - 2)) * rows
                for leaf, rows in zip(trees.leaves(self.dz), given, strict=True)
            ]
        return [rows.reshape(len(index), *leaf.shape) for rows, leaf in zip(given, trees.leaves(like), strict=True)]

    def scale(self, index: Tensor, area: bool) -> Tensor:
        """The increments are given as they are, so their scale is one."""
        if area and self.dz is None:
            raise ValueError("the path has no areas, which the method needs; expected FrozenPath(points, dw, dz)")
        return torch.ones(index.shape, dtype=torch.float64, device=index.device)

    def check(self, like: State) -> None:
        """See `NoisePath.check`."""
        shapes = [tuple(leaf.shape[1:]) for leaf in trees.leaves(like)]
        given = [tuple(leaf.shape[1 + self.samples :]) for leaf in trees.leaves(self.dw)]
        # A sample of a batch is a state with an axis of one in front, which increments need not have.
        if list(map(prod, shapes)) != list(map(prod, given)):
            raise ValueError(
                f"dw has increments of shape {_listed(given)} for noise of shape {_listed(shapes)}; expected leaves of "
                f"shape (atoms, {'samples, ' * self.samples}*shape) for each"
            )

    def _rows(self, leaf: Tensor, index: Tensor, keys: Tensor) -> Tensor:
        leaf = leaf.to(device=index.device, dtype=torch.float64)
        return leaf[index, keys[:, 2].expand_as(index)] if self.samples else leaf[index]


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
