"""The two calls: `solve`, in parallel in time, and `serial`, the sequential run that it reproduces."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch

from parareal._core import trees
from parareal._core.autocast import without_autocast
from parareal._core.checks import check_count, check_flag, check_instance
from parareal._core.forward_mode import without_left_levels
from parareal._core.keywords import explain_keywords
from parareal._core.names import check_kind
from parareal._core.signals import raising
from parareal._core.trees import State
from parareal._input_checks import check_gradients, check_half, check_history, check_keep, check_solves, device_kind
from parareal._inputs import Inputs
from parareal._run import Callback, Method, Options, Run
from parareal._sequential import sequential
from parareal._start import StartGuess, first_iterates
from parareal.adjoint._attach import Adjoint, Request, check_adjoint
from parareal.adjoint._refuse import without_gradients
from parareal.corrections._base import Coarse, Correction, check_correction
from parareal.corrections._traits import CorrectionTraits
from parareal.engine._dense import Dense, dense_of
from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Integrator
from parareal.integrators._timed import timed
from parareal.persistence._checkpoint import Checkpoint
from parareal.problem._ode import Problem
from parareal.results._run_identity import digest
from parareal.results._solution import Solution, SolveError
from parareal.schedules._schedule import AHEAD, Barrier, Schedule, Wavefront
from parareal.stopping._rules import StoppingRule
from parareal.stopping._tolerance import Tolerance


@explain_keywords
def solve(
    problem: Problem,
    u0: State,
    grid: TimeGrid,
    *,
    fine: Integrator,
    coarse: Integrator | Correction,
    schedule: Schedule | None = None,
    executor: Executor | None = None,
    stop: StoppingRule | None = None,
    max_iterations: int | None = None,
    samples: bool = False,
    dense: bool = True,
    keep: Literal["last", "all"] = "last",
    verify: bool = False,
    history: Literal["full", "summary"] | None = None,
    resume: Solution | None = None,
    start: StartGuess | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    gradients: Literal["unroll", "adjoint"] = "unroll",
    throw: bool = True,
    progress: bool = False,
    callback: Callback | None = None,
) -> Solution:
    """Solves an initial value problem in parallel in time.

    After k iterations the first k slices equal the result of `serial` with the same ``fine`` propagator; after as many
    iterations as there are slices, all do. Gradients flow through as through any torch code, or by the adjoint with
    ``gradients="adjoint"``: call it under ``torch.no_grad()`` if you need none.

    Args:
        problem: The equation.
        u0: State at the start of the grid: a tensor or a pytree of tensors, floating point or complex.
        grid: Time points and slices.
        fine: The propagator whose solution is wanted.
        coarse: A cheap integrator, by default with one step a slice, or a `Correction`.
        schedule: Which lanes advance when: `Wavefront`, `Barrier`, `Windowed` or `RankPipeline`. By default
            ``Wavefront(ahead=6)``: it never takes more rounds than `serial`, as `Barrier` may, but makes speculative
            evaluations: for k iterations at most ``(k + 6) / k`` times the fine ones of `Barrier`. Take `Barrier` if
            evaluations count, and ``Wavefront()``, without a bound, if only rounds count.
        executor: How the lanes of a round are evaluated; `Batched` by default, `Distributed` under ``torchrun``.
        stop: When to stop; ``Tolerance(rtol=1e-4, atol=1e-6)`` by default.
        max_iterations: Most iterations; ``None`` or more than there are slices means as many as there are slices.
        samples: Axis 0 of every tensor in ``u0`` is a batch of independent samples: norms, stopping and iterations are
            then per sample, a sample that has finished leaves the rounds, and none depends on the others. The
            right-hand side sees states with a batch axis of 1.
        dense: Keep the states at all slice boundaries. ``False`` keeps only the first and the last, and with
            `Windowed` the memory for states and history then grows with its width, not with the number of slices.
        keep: ``"all"`` keeps every iterate and the fine and coarse solutions from it, in `Solution.iterates`: about
            three states for each slice and iteration.
        verify: After convergence, evaluate every accepted boundary once more, as many slices at a time as the window
            has. If their defects add up to more than the tolerance at the end, the run continues from the current
            states. The status is then `Status.VERIFIED`, or FINAL.
        history: What `Solution.history` keeps of each iteration: ``"full"``, the increments of all slices; or
            ``"summary"``, the largest of them. ``None`` for ``"full"`` with ``dense=True`` and ``"summary"`` without.
            The callback sees the increments of all slices in either case.
        resume: A solution to continue from, partial or not, of a run with the same problem, initial state, grid, fine
            propagator and ``samples``. Everything else may be another. Iterations, history and costs are counted on.
            With `Barrier` the run continues as if it had never stopped, with others from what every slice boundary
            holds; see ``docs/resume.md``.
        start: First iterates, in place of the guesses of the correction or of `Windowed`: a `Solution` of another run
            over the same span of time (interpolated linearly where grids differ); states at the slice boundaries,
            leaves ``(N + 1, *state)``; or ``fn(t0, t1, u) -> guess``, as in `Windowed`. With ``samples=True`` one
            sample, ``(N + 1, 1, *rest)``, may stand for all. It is a guess: a bad one costs iterations, and nothing
            that is promised of the result rests on it. Where it is not finite, the state on its left stands in. No
            gradient flows into it; and that of a run which it makes short is right with `Jacobian` and
            ``gradients="adjoint"`` alone, others refuse it, see ``docs/resume.md``.
        checkpoint: A file that is written after each iteration, see `Solution.save`, and continued from where it exists
            already: the same call, made again after a crash, does the rest. The file before it is kept as
            ``checkpoint + ".previous"``, and is taken with a warning where the last one is damaged.
        gradients: ``"unroll"``: of the iterates, by the graph of all that was computed, whose memory grows with
            iterations and fine steps. ``"adjoint"``: of the sequential run through the boundary states that were found.
            The run keeps these alone, and the backward pass computes the slices once more, in parallel; its recursion
            is solved in parallel in time as well. First derivatives alone; for tensors that the right-hand side refers
            to, ``u0``, ``per_sample``, and the points of the grid. See ``docs/training.md``.
        throw: Raise `SolveError` when the run does not reach what was asked; otherwise return what there is.
        progress: Show a progress bar (needs tqdm).
        callback: Called with an `IterationReport` after each iteration; returning True (or
            a tensor that is) stops the run.

    Returns:
        The `Solution`.

    Raises:
        SolveError: The tolerance was not met, or the sequential solution itself is not finite (with ``throw=True``).
        TypeError, ValueError: An argument is wrong; nothing was computed.
        Exception: What the right-hand side or the callback raised, or Ctrl-C, with the partial solution as its
            attribute ``solution``.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: torch.cos(t) * u)
        >>> grid = pr.TimeGrid.uniform(0.0, 6.0, slices=12, steps=20)
        >>> sol = pr.solve(problem, torch.ones(1, dtype=torch.float64), grid, fine=pr.RK4(), coarse=pr.Heun())
        >>> sol.iterations < 12
        True
    """
    for name, flag in (("dense", dense), ("verify", verify), ("throw", throw), ("progress", progress)):
        check_flag(flag, name)
    with without_autocast(device_kind(u0)):
        return solve_as(
            problem,
            u0,
            grid,
            fine=fine,
            coarse=coarse,
            schedule=schedule,
            executor=executor,
            stop=stop,
            max_iterations=max_iterations,
            samples=samples,
            dense=dense,
            keep=keep,
            verify=verify,
            history=history,
            resume=resume,
            start=start,
            checkpoint=checkpoint,
            gradients=gradients,
            throw=throw,
            progress=progress,
            callback=callback,
        )


def solve_by_adjoint(
    request: Request, problem: Problem, u0: State, grid: TimeGrid, *, max_iterations: int | None, **options: Any
) -> Solution:
    """`solve` with ``gradients="adjoint"``, and all that a request may say of it."""
    defaults: dict[str, Any] = dict.fromkeys(("history", "resume", "start", "checkpoint", "callback"))
    defaults |= {"samples": False, "dense": True, "keep": "last", "verify": False, "throw": True, "progress": False}
    defaults |= options
    with without_autocast(device_kind(u0)):
        return solve_as(
            problem, u0, grid, max_iterations=max_iterations, gradients="adjoint", request=request, **defaults
        )


def solve_as(
    problem: Problem,
    u0: State,
    grid: TimeGrid,
    *,
    fine: Integrator,
    coarse: Integrator | Correction,
    schedule: Schedule | None,
    executor: Executor | None,
    stop: StoppingRule | None,
    max_iterations: int | None,
    samples: bool,
    dense: bool,
    keep: Literal["last", "all"],
    verify: bool,
    history: Literal["full", "summary"] | None,
    resume: Solution | None,
    start: StartGuess | None,
    checkpoint: str | os.PathLike[str] | None,
    gradients: Literal["unroll", "adjoint"],
    throw: bool,
    progress: bool,
    callback: Callback | None,
    request: Request | None = None,
) -> Solution:
    """`solve` with all arguments, autocast set aside; ``request`` says more about the adjoint."""
    executor = Batched() if executor is None else executor
    check_kind(executor, Executor, "executor", "pr.Batched()")
    if schedule is None:
        nested = isinstance(coarse, Correction) and getattr(coarse.traits, "nested", None) is not None
        schedule = Barrier() if nested else Wavefront(AHEAD)
    check_kind(schedule, Schedule, "schedule", "pr.Wavefront()")
    with schedule.joined(executor) as joined:
        check_keep(keep, dense)
        if check_gradients(gradients) == "adjoint":
            check_adjoint(joined, schedule, dense)
        summary = check_history(history, dense)
        inputs = Inputs.checked(problem, u0, grid, fine, joined, samples)
        options = Options(dense, keep, verify, summary, callback, progress)
        check_half(u0, fine, coarse)
        if verify:
            _check_verify(dense, joined)
        correction, stop = _parts(inputs, coarse, schedule, stop)
        if max_iterations is not None:
            check_count(max_iterations, "max_iterations")
        if resume is not None:
            check_instance(resume, Solution, "resume", 'pr.Solution.load("run.safetensors")')
            if start is not None:
                raise ValueError(
                    "start came with resume, whose run has iterates of its own; expected one of them: resume continues "
                    "the same run, start=solution begins another one from its states"
                )
        first = None if start is None else first_iterates(start, inputs)
        saved = None if checkpoint is None else Checkpoint(checkpoint, dense, joined)
        joined.meet(
            inputs.systems,
            lambda: {
                "identity": inputs.identity,
                "initial state": digest(trees.leaves(inputs.systems)),
                "correction": correction,
                "schedule": schedule,
                "stopping rule": stop,
                "start": None if first is None else first.described(),
                "settings": f"{max_iterations=}, {dense=}, {keep=}, {history=}, checkpoint={saved is not None}",
            },
        )
        adjoint = None
        if gradients == "adjoint":
            adjoint = Adjoint.of_run(inputs, correction, schedule, joined, stop, request or Request())
        with (
            without_left_levels(),
            nullcontext() if saved is None else raising(),
            torch.no_grad() if gradients == "adjoint" else nullcontext(),
        ):
            if saved is not None:
                resume = saved.load() or resume
            method = Method(correction, schedule, stop, max_iterations, first)
            solution = Run(inputs, joined, options).parallel(method, resume, saved)
            if dense and inputs.batch != 0:
                solution = replace(solution, continuous=_continuous(inputs, solution.us, executor))
            if saved is not None:
                saved.finish(solution)
        if adjoint is not None:
            solution = adjoint.attached(solution)
            if solution.continuous is not None:  # of the states from which gradients flow
                solution = replace(solution, continuous=_continuous(inputs, solution.us, executor, graph=True))
        elif first is not None or resume is not None:
            solution = without_gradients(solution, resume, first is not None, correction, stop)
    if throw and solution.status.failed:
        raise SolveError(solution)
    return solution


def _rule(number: float) -> str:
    """What a number may mean as stopping rule."""
    return f"pr.Iterations({number})" if isinstance(number, int) else f"pr.Tolerance(rtol={number!r})"


def _check_verify(dense: bool, executor: Executor) -> None:
    if not dense:
        raise ValueError(
            "verify=True came with dense=False, which keeps no states to evaluate; expected dense=True, or verify=False"
        )
    executor.check_verify()


def _parts(
    inputs: Inputs, coarse: Integrator | Correction, schedule: Schedule, stop: StoppingRule | None
) -> tuple[Correction, StoppingRule]:
    """Correction and stopping rule, checked."""
    if isinstance(coarse, Integrator):
        coarse = Coarse(coarse)
    check_correction(coarse)
    level: CorrectionTraits | None = coarse.traits
    if level.nested is not None and not isinstance(schedule, Barrier):
        raise ValueError(
            f"{schedule!r} came with {coarse!r}, whose sweep goes over all slices at once; expected "
            "schedule=pr.Barrier(), which is the default with it"
        )
    while level is not None:
        if level.propagator is not None:
            check_solves(level.propagator, inputs.problem, "the coarse propagator")
        level = None if level.nested is None else level.nested.correction.traits
    stop = Tolerance() if stop is None else stop
    check_kind(stop, StoppingRule, "stop", "pr.Tolerance(rtol=1e-4)", number=_rule)
    slices = inputs.grid.num_slices
    if schedule.width is not None and schedule.width > slices:
        raise ValueError(
            f"width={schedule.width} is more than the {slices} slices of the grid; expected 1 ... "
            f"{slices}, or a grid of more slices"
        )
    return coarse, stop


@explain_keywords
def serial(
    problem: Problem,
    u0: State,
    grid: TimeGrid,
    *,
    fine: Integrator,
    samples: bool = False,
    executor: Executor | None = None,
) -> Solution:
    """The sequential run: the fine propagator applied slice after slice.

    Args:
        problem: The equation.
        u0: State at the start of the grid.
        grid: Time points and slices.
        fine: The propagator.
        samples: As in `solve`; the samples share the rounds.
        executor: As in `solve`; it matters for samples only.

    Returns:
        A `Solution` without history, its status `Status.FINAL`, or `Status.NONFINITE` where it ends in NaN or Inf.

    Raises:
        TypeError, ValueError: An argument is wrong; nothing was computed.
        Exception: Whatever the right-hand side raised, with the partial solution as its attribute ``solution``.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> ref = pr.serial(pr.ODE(lambda t, u: -u), torch.ones(3), grid, fine=pr.RK4())
        >>> ref.stats.rounds == 4 * 8 * 4
        True
    """
    executor = Batched() if executor is None else executor
    check_kind(executor, Executor, "executor", "pr.Batched()")
    with without_autocast(device_kind(u0)), executor.joined() as joined:
        inputs = Inputs.checked(problem, u0, grid, fine, joined, samples)
        check_half(u0, fine, None)
        systems = inputs.systems
        joined.meet(systems, lambda: {"identity": inputs.identity, "initial state": digest(trees.leaves(systems))})
        solution = sequential(inputs, joined)
        return replace(solution, continuous=None if inputs.batch == 0 else _continuous(inputs, solution.us, executor))


def _continuous(inputs: Inputs, us: State, executor: Executor, graph: bool = False) -> Callable[[], Dense]:
    """What makes the solution at all times; with the ``graph`` of times that came with one if the states have it."""
    fine, given = inputs.fine, inputs.grid.given
    if graph and given is not None:
        fine = timed(fine, given if fine.steps is None else given[list(inputs.grid.bounds)])
    return lambda: dense_of(inputs.problem, fine, inputs.grid, us, executor, inputs.rows, inputs.samples)
