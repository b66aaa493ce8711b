"""Checks of arguments, made before any work is done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described, with_article
from parareal._core.forward_mode import VMAPPED, inside, stands_for_many
from parareal._core.names import one_of
from parareal._core.references import tensors_of
from parareal._core.trees import State
from parareal.integrators import Integrator, SciPy, TorchODE


def check_keep(keep: Any, dense: bool) -> None:
    """Raises unless ``keep`` is known and compatible with ``dense``."""
    one_of(keep, ("last", "all"), "keep")
    if keep == "all" and not dense:
        raise ValueError("keep='all' came with dense=False, which keeps none; expected one of them")


def check_gradients(gradients: Any) -> str:
    """How gradients are taken; raises for an unknown way."""
    return one_of(gradients, ("unroll", "adjoint"), "gradients")


def check_history(history: Any, dense: bool) -> bool:
    """Whether a summary of the history is kept; raises for an unknown value."""
    if history is None:
        return not dense
    other = "None for 'full' with dense=True and 'summary' without"
    return one_of(history, ("full", "summary"), "history", other) == "summary"


def device_kind(u0: Any) -> str:
    """The kind of device that a state lies on, as far as it is a state."""
    return next((leaf.device.type for leaf in trees.leaves(u0) if isinstance(leaf, Tensor)), "cpu")


def check_half(u0: State, fine: Any, coarse: Any) -> None:
    """Raises where a method cannot compute in half precision: Newton's systems, and libraries that do not have it."""
    half = [leaf.dtype for leaf in trees.leaves(u0) if leaf.dtype in _HALF]
    if not half:
        return
    methods: list[tuple[str, Any]] = [("fine", fine)]
    level: Any = coarse if isinstance(coarse, Integrator) else getattr(coarse, "traits", None)
    while level is not None:
        methods.append(("the coarse propagator", getattr(level, "propagator", level)))
        nested: Any = getattr(level, "nested", None)
        level = None if nested is None else nested.correction.traits
    for name, method in methods:
        if isinstance(method, Integrator) and (method.implicit or isinstance(method, SciPy | TorchODE)):
            raise TypeError(
                f"u0 is of {half[0]}, in which {name}, {method!r}, cannot be computed: torch solves no linear systems "
                "in it, and other libraries do not support it; expected float32 or float64: "
                "u0.float(), with f in low precision inside of torch.autocast"
            )


_HALF = (torch.float16, torch.bfloat16)
_DTYPES = (*_HALF, torch.float32, torch.float64, torch.complex64, torch.complex128)


def check_solves(method: Any, problem: Any, name: str) -> None:
    """Raises unless a method is for problems of this kind."""
    solves = method.traits.solves
    if isinstance(problem, solves):
        return
    kinds = " or ".join(with_article(kind.__name__) for kind in solves)
    kind = type(problem).__name__
    fix = {
        "ODE": "pr.RK4()",
        "SemilinearODE": "pr.ETDRK4()",
        "SDE": 'pr.EulerMaruyama() or pr.Milstein(), or with calculus="stratonovich" pr.Heun()',
    }
    other = "pr.RK4() for an ODE, pr.EulerMaruyama() for an SDE, pr.ETDRK4() for a SemilinearODE"
    raise ValueError(
        f"{name} is {method!r}, which is for {kinds}, and the problem is {with_article(kind)}; expected a method for "
        f"it, such as {fix.get(kind, other)}"
    )


def check_state(u0: State, samples: bool) -> int:
    """Raises unless ``u0`` is a state that can be solved for; returns the number of samples (1 without ``samples``)."""
    leaves = trees.leaves(u0)
    if not leaves:
        raise ValueError("u0 holds no tensors; expected a tensor, or nested tuples, lists and dicts of tensors")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"u0 holds {described(leaf)}; expected tensors: wrap numbers and arrays in torch.as_tensor(...)"
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise TypeError(
                f"u0 holds a tensor of {leaf.dtype}; expected floating point or complex: use u0.to(torch.float64)"
            )
        if leaf.dtype not in _DTYPES:
            raise TypeError(
                f"u0 holds a tensor of {leaf.dtype}, in which torch has few operations; expected "
                f"{', '.join(map(str, _DTYPES))}: use u0.to({torch.complex64 if leaf.is_complex() else torch.float32})"
            )
        if leaf.layout != torch.strided:
            raise TypeError(f"u0 holds a tensor of layout {leaf.layout}; expected a dense one: use u0.to_dense()")
        if not _has_memory(leaf):
            raise TypeError(
                "u0 is a tensor inside a transform of torch.func, such as grad, jacrev, jvp or vmap, in which solve "
                "cannot run; expected a plain tensor: call solve outside of it. Take gradients with "
                "torch.autograd.grad or loss.backward(), and many initial states with samples=True or a leading axis"
            )
        if leaf.device != leaves[0].device:
            raise ValueError(
                f"u0 lies on {leaves[0].device} and on {leaf.device}; expected all its tensors on one device"
            )
        if leaf.shape[1 if samples else 0 :].numel() == 0:
            raise ValueError(f"u0 holds an empty tensor of shape {tuple(leaf.shape)}; leave such leaves out")
    if not _has_memory(torch.zeros(1) + 0):
        raise TypeError(
            "solve was called where torch.func takes derivatives, in which it cannot run: inside of grad, jacrev or "
            "jvp, or of a right-hand side whose derivatives an implicit method or pr.Jacobian takes; expected it "
            "outside: take an explicit method and another correction for a right-hand side that solves, or give its "
            "derivatives by pr.ODE(f, jacobian=...)"
        )
    if not samples:
        return 1
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise ValueError(
            f"samples=True needs one batch axis in front of every tensor of u0; its tensors have shapes {shapes}"
        )
    return leaves[0].shape[0]


def _has_memory(leaf: Tensor) -> bool:
    try:
        leaf.data_ptr()
    except RuntimeError:
        return False
    return True


def check_parameters(problem: Any, fine: Any) -> None:
    """Raises where the equation or the method depends on a tensor that stands for many under torch.func.vmap."""
    if inside() and any(stands_for_many(one) for one in tensors_of((problem, fine))):
        raise TypeError(f"solve was called inside of torch.func.vmap, over a tensor that {VMAPPED}")


def check_per_sample(problem: Any, samples: int | None) -> None:
    """Raises unless the problem's per-sample data has one entry for each of ``samples`` samples, if known."""
    if samples is None or problem.per_sample is None:
        return
    for leaf in trees.leaves(problem.per_sample):
        if leaf.ndim == 0 or leaf.shape[0] != samples:
            raise ValueError(
                f"per_sample holds a tensor of shape {tuple(leaf.shape)} for {samples} samples; "
                f"expected a leading axis of {samples}"
            )


def check_fold(problem: Any, u0: State) -> None:
    """Raises unless a problem with ``batching="fold"`` has one batch axis in front of every leaf and its data."""
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in trees.leaves(u0)}
    if problem.batching == "fold" and (len(sizes) != 1 or None in sizes):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in trees.leaves(u0))
        raise ValueError(
            f'batching="fold" needs one batch axis in front of every tensor of u0; its tensors have shapes {shapes}. '
            'Add it with u0[None], or use batching="vmap"'
        )
    if problem.batching == "fold":
        check_per_sample(problem, next(iter(sizes)))


def as_lanes(tree: State, samples: int | None) -> State:
    """A state as independent systems: leaves ``(B, 1, *rest)`` for B samples, ``(1, *state)`` for ``None``."""
    if samples is None:
        return trees.map(lambda leaf: leaf.unsqueeze(0), tree)
    return trees.map(lambda leaf: leaf.unsqueeze(1), tree)
