"""Inputs at the edges of what is usual: autocast, half precision, odd strides, transforms, files, prints."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import diffusion_adapters as da
import parareal as pr
from parareal.results import _tensor_file
from parareal.results._run_identity import raw

GRID = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
LOW = (torch.float16, torch.bfloat16)


def run(f: Any, u0: Any, batching: Any = "vmap", **options: Any) -> pr.Solution:
    settings: Any = {"fine": pr.RK4(), "coarse": pr.Euler(), "stop": pr.Iterations(2), **options}
    return pr.solve(pr.ODE(f, batching), u0, GRID, **settings)


# --- autocast --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["vmap", "native", "loop"])
@pytest.mark.parametrize("nest", [False, True])
def test_autocast_lowers_the_right_hand_side_and_nothing_else(batching: Any, nest: bool) -> None:
    net, seen = torch.nn.Linear(3, 3, bias=False), set[torch.dtype]()

    def f(t: Tensor, u: Any) -> Any:
        value = net(u["x"] if nest else u)
        seen.add(value.dtype)
        return {"x": value} if nest else value

    u0: Any = {"x": torch.ones(3)} if nest else torch.ones(3)
    coarse = pr.Secant(pr.Identity())  # whose matrix products autocast would lower
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        sol = run(f, u0, batching, coarse=coarse, stop=pr.Iterations(4))
        ref = pr.serial(pr.ODE(f, batching), u0, GRID, fine=pr.RK4())
        assert torch.is_autocast_enabled("cpu")
    ours, theirs = (s.u["x"] if nest else s.u for s in (sol, ref))
    assert seen == {torch.bfloat16}
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=1e-2)


def test_autocast_works_in_odeint_as_in_torchdiffeq() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    net, t = torch.nn.Linear(3, 3), torch.linspace(0.0, 1.0, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        ours = pr.odeint(lambda t, u: net(u), torch.ones(3), t, method="rk4")
        theirs = torchdiffeq.odeint(lambda t, u: net(u), torch.ones(3), t, method="rk4")
    assert ours.dtype == theirs.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=2e-2, atol=2e-2)


def test_a_black_box_runs_under_autocast() -> None:
    net = torch.nn.Linear(3, 3)
    black = pr.Propagator(lambda t0, t1, u: net(u))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(lambda t, u: -u, torch.ones(3), fine=black).u.dtype == torch.float32


def test_another_dtype_that_autocast_has_not_made_is_refused() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match=r"torch.float64"):
        run(lambda t, u: u.double(), torch.ones(3))
    with pytest.raises(TypeError, match=r"returned torch.bfloat16"):
        run(lambda t, u: u.bfloat16(), torch.ones(3))


# --- half precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize(
    "coarse", [pr.Secant(pr.Identity()), pr.Secant(pr.Euler()), pr.Anderson(pr.Identity())], ids=repr
)
def test_corrections_solve_their_small_systems_in_half_precision(dtype: torch.dtype, coarse: Any) -> None:
    sol = run(lambda t, u: -u, torch.ones(3, dtype=dtype), coarse=coarse, stop=pr.Iterations(3))
    assert sol.u.dtype == dtype
    assert torch.allclose(sol.u.float(), torch.exp(torch.tensor(-1.0)).expand(3), rtol=2e-2)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize(
    "method", [pr.ImplicitEuler(), pr.RadauIIA(2), pr.SciPy("RK45"), pr.TorchODE()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("role", ["fine", "coarse"])
def test_methods_that_cannot_say_so_before_any_work(dtype: torch.dtype, method: Any, role: str) -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        raise AssertionError("f was called")

    with pytest.raises(TypeError, match=r"cannot be computed.*u0\.float\(\)"):
        run(f, torch.ones(2, dtype=dtype), **{role: method})


# --- vmap and transforms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_under_vmap_says_what_to_do(reentrant: bool) -> None:
    net = torch.nn.Linear(3, 3)
    u0 = torch.ones(3, requires_grad=True)

    def f(t: Tensor, u: Tensor) -> Any:
        return checkpoint(net, u, use_reentrant=reentrant)

    with pytest.raises(RuntimeError) as caught:
        run(f, u0)
    assert 'batching="native"' in str(caught.value) + "".join(caught.value.__notes__)
    run(f, u0, "native").u.sum().backward()
    with_it = u0.grad
    u0.grad = None
    run(lambda t, u: net(u), u0).u.sum().backward()
    assert torch.allclose(with_it, u0.grad)


def test_callers_hooks_on_saved_tensors_stay_possible() -> None:
    u0 = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        run(lambda t, u: -u * u, u0).u.sum().backward()
    assert u0.grad is not None


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.vmap])
def test_inside_of_transforms_the_error_names_them(transform: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.func.*expected a plain tensor: call solve outside"):
        transform(lambda u: run(lambda t, x: -x, u).u.sum())(torch.ones(3))


@pytest.mark.parametrize("kind", ["full", "diagonal"])
@pytest.mark.parametrize("batching", ["vmap", "native"])
def test_the_jacobian_of_a_slope_that_does_not_depend_on_the_state(kind: Any, batching: Any) -> None:
    def f(t: Tensor, u: Any) -> Any:
        clock = u["clock"] if batching == "vmap" else u["clock"][:, None]
        return {"clock": torch.ones_like(u["clock"]), "x": -u["x"] * (1 + clock)}

    u0 = {"clock": torch.zeros((), dtype=torch.float64), "x": torch.ones(2, dtype=torch.float64)}
    sol = run(f, u0, batching, coarse=pr.Jacobian(kind), stop=pr.Tolerance(1e-12, 0.0))
    ref = pr.serial(pr.ODE(f, batching), u0, GRID, fine=pr.RK4())
    for name in u0:
        assert torch.allclose(sol.us[name], ref.us[name], rtol=1e-10)


# --- bytes and files -------------------------------------------------------------------------------------------------

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool)


@given(
    st.sampled_from(DTYPES), st.lists(st.integers(1, 3), max_size=3), st.integers(1, 5), st.booleans(), st.booleans()
)
def test_the_bytes_of_a_tensor_do_not_depend_on_its_strides(
    dtype: torch.dtype, shape: list[int], stride: int, conj: bool, flip: bool
) -> None:
    plain = (torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape) % 5).to(dtype)
    if dtype.is_complex and conj:
        plain = plain * (1 - 2j)
    spread = torch.zeros([(n - 1) * stride + 1 if n > 1 else stride for n in shape], dtype=dtype)
    view = spread[tuple(slice(None, None, stride) for _ in shape)]
    view.copy_(plain)
    if flip and view.ndim > 1:
        view, plain = view.transpose(0, -1), plain.transpose(0, -1)
    if dtype.is_complex and conj:
        view, plain = view.conj(), plain.conj().resolve_conj()
    assert raw(view).numpy().tobytes() == raw(plain.clone(memory_format=torch.contiguous_format)).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("stride", [3, 8])
def test_a_state_of_odd_strides_is_saved_resumed_and_checkpointed(
    dtype: torch.dtype, stride: int, tmp_path: Path
) -> None:
    u0 = torch.ones(2, stride, dtype=dtype)[:, ::stride]
    one = torch.ones(stride, dtype=dtype)[::stride]
    for start in (u0, one, one.reshape(1, 1)):
        path = tmp_path / f"{start.ndim}-{len(start)}"
        sol = run(lambda t, u: -u, start, checkpoint=path, stop=pr.Iterations(1))
        back = pr.Solution.load(path)
        assert torch.equal(back.us, sol.us)
        again = run(lambda t, u: -u, start, resume=back)
        assert again.iterations == 2


def test_threads_that_save_to_one_name_publish_whole_files(tmp_path: Path) -> None:
    path, failed = tmp_path / "run", list[BaseException]()
    sols = [run(lambda t, u: -u, torch.full((500,), float(i))) for i in range(3)]
    sols[0].save(path)
    done = threading.Event()

    def keep(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    def load() -> None:
        while not done.is_set():
            pr.Solution.load(path)

    def save(sol: pr.Solution) -> None:
        for _ in range(10):
            sol.save(path)

    reader = threading.Thread(target=keep, args=(load,))
    writers = [threading.Thread(target=keep, args=(lambda sol=sol: save(sol),)) for sol in sols]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not failed
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("said", "code"), [("(os error 28)", errno.ENOSPC), ("something else", errno.EIO)])
def test_a_full_disk_is_an_oserror_that_says_so(
    said: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sol, path = run(lambda t, u: -u, torch.ones(2)), tmp_path / "run"
    sol.save(path)
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise safetensors.SafetensorError(f"Error while serializing: I/O error: No space left on device {said}")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"not written.*No space left") as caught:
        sol.save(path)
    assert caught.value.errno == code
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(os.name != "posix", reason="processes cannot be asked for")
def test_what_killed_saves_have_left_is_removed(tmp_path: Path) -> None:
    gone = 2**22 + 12345  # more than a process can be numbered with
    old = time.time() - 2 * _tensor_file.LEFT

    def part(process: int, name: str = "run", host: str = "", age: float = old, seen: str = "") -> Path:
        host, seen = host or _tensor_file._host(), seen or _tensor_file._processes()
        path = tmp_path / f"{name}.{host}.{seen}.{process}.{'0' * 32}.part"
        path.touch()
        os.utime(path, (age, age))
        return path

    now = time.time()
    removed = [part(gone), part(gone + 1, age=now), part(gone + 2, seen="1234abcd")]
    kept = [part(os.getpid()), part(gone, name="other"), part(gone, host="elsewhere")]
    kept += [part(gone + 3, seen="1234abcd", age=now)]  # it may run where it is not seen
    run(lambda t, u: -u, torch.ones(2)).save(tmp_path / "run")
    assert not any(path.exists() for path in removed)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("missing", ["ts", "us", "iterations", "stats", "status", "history", "standing", "us.0"])
def test_a_file_with_the_right_digest_and_the_wrong_content_is_damaged(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(lambda t, u: -u, torch.ones(2)).save(path)
    packed, tensors = _tensor_file.load(path)
    for part in (packed, tensors):
        part.pop(missing, None)
    _tensor_file.save({k: v for k, v in packed.items() if k not in ("format", "version", "written_by")}, tensors, path)
    with pytest.raises(ValueError, match="is damaged"):
        pr.Solution.load(path)
    json.dumps(packed)


# --- prints ----------------------------------------------------------------------------------------------------------


def fits(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) <= 40 and all(len(line) <= 400 for line in lines)


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("kept", ["full", "summary"])
def test_what_a_run_gives_prints_on_a_screen(samples: bool, kept: Any) -> None:
    grid = pr.TimeGrid.uniform(0.0, 3.0, 100)
    sol = pr.solve(
        pr.ODE(lambda t, u: torch.cos(t).to(u.dtype) * u * u),
        torch.linspace(-1.0, -0.1, 300)[:, None],
        grid,
        fine=pr.RK4(),
        coarse=pr.Identity(),
        stop=pr.Iterations(30),
        samples=samples,
        history=kept,
        keep="all",
    )
    for thing in (sol, sol.history, sol.history[0], sol.iterates):
        for text in (str(thing), repr(thing)):
            assert fits(text), text
            assert "tensor([" not in text
    assert "History of 30 iterations" in str(sol.history)
    assert str(pr.solve(pr.ODE(lambda t, u: -u), torch.ones(1), GRID, fine=pr.RK4(), coarse=pr.Euler()).history)


def test_a_sample_result_prints_on_a_screen() -> None:
    model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
    out = da.sample(model, (200, 1), steps=8, generator=torch.Generator().manual_seed(0))
    for text in (str(out), repr(out)):
        assert fits(text)
        assert "(200, 1)" in text
        assert "tensor([" not in text


def test_what_holds_many_numbers_prints_on_a_screen() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, 200, 2)
    sol = pr.solve(pr.ODE(lambda t, u: -u), torch.ones(50), grid, fine=pr.RK4(), coarse=pr.Euler())
    things = [
        pr.theory.layout(pr.Wavefront(), 100, 10, fine=5.0, coarse=1.0),
        sol.standing,
        da.GaussianMixture(torch.randn(300, 30, generator=torch.Generator().manual_seed(0)), 0.1),
    ]
    for thing in things:
        assert fits(repr(thing))
        assert "tensor([" not in repr(thing)
    assert repr(things[0]).startswith("Layout(slices=100, workers=")


def test_a_run_that_took_more_rounds_than_the_serial_one_says_so(tmp_path: Path) -> None:
    problem, u0 = pr.ODE(lambda t, u: torch.cos(t) * u), torch.ones(1, dtype=torch.float64)
    options: Any = {"fine": pr.Euler(), "coarse": pr.Euler(), "stop": pr.Iterations(4)}
    serial = pr.serial(problem, u0, GRID, fine=pr.Euler()).stats.rounds
    lost = pr.solve(problem, u0, GRID, schedule=pr.Barrier(), **options)
    assert lost.stats.rounds > lost.serial_rounds == serial
    assert f"More rounds than the serial run, which takes {serial}" in str(lost)
    even = pr.solve(problem, u0, GRID, **options)
    assert even.stats.rounds <= even.serial_rounds
    assert "More rounds" not in str(even)
    lost.save(tmp_path / "run")
    assert pr.Solution.load(tmp_path / "run").serial_rounds == serial


@pytest.mark.parametrize(
    "fine", [pr.RK4(steps=3), pr.Heun(), pr.Propagator(lambda t0, t1, u: u)], ids=lambda m: type(m).__name__
)
def test_the_rounds_of_the_serial_run_are_those_that_it_takes(fine: Any) -> None:
    problem, u0 = pr.ODE(lambda t, u: -u), torch.ones(1)
    sol = pr.solve(problem, u0, GRID, fine=fine, coarse=pr.Identity())
    assert sol.serial_rounds == pr.serial(problem, u0, GRID, fine=fine).stats.rounds


@pytest.mark.parametrize("samples", [False, True], ids=["one", "samples"])
@pytest.mark.parametrize(("lane", "call", "lost"), [(1.0, 0.0, True), (0.0, 1.0, False)], ids=["lanes", "calls"])
def test_a_run_that_took_more_time_than_the_serial_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: bool, lane: float, call: float, lost: bool
) -> None:
    """A clock that only the right-hand side moves, by the lane as on a busy device, or by the call as on a free one."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def f(t: Tensor, u: Tensor) -> Tensor:
        now[0] += lane * t.numel() + call
        return torch.cos(t).reshape(-1, *[1] * (u.ndim - 1)) * u

    grid = pr.TimeGrid.uniform(0.0, 6.0, slices=8, steps=8)
    u0 = torch.ones((3, 1) if samples else 1, dtype=torch.float64)
    problem = pr.ODE(f, "native")
    options: Any = {"fine": pr.RK4(), "samples": samples}
    sol = pr.solve(problem, u0, grid, coarse=pr.Euler(), stop=pr.Iterations(8), **options)
    wall = pr.serial(problem, u0, grid, **options).stats.wall_time
    assert sol.serial_time is not None
    assert sol.serial_time >= wall  # an upper estimate, so what is said is true
    assert (sol.stats.wall_time > wall) == lost
    assert ("More time than the serial run" in str(sol)) == lost
    sol.save(tmp_path / "run")
    assert pr.Solution.load(tmp_path / "run").serial_time == sol.serial_time
    one = pr.TimeGrid.uniform(0.0, 1.0, slices=1, steps=1)
    assert pr.solve(problem, u0, one, fine=pr.Euler(), coarse=pr.Euler(), samples=samples).serial_time is None


# --- torchdiffeq's call ----------------------------------------------------------------------------------------------


def test_odeint_knows_func_and_says_what_to_do_of_event_fn() -> None:
    y0, t = torch.ones(2, dtype=torch.float64), torch.linspace(0.0, 1.0, 3, dtype=torch.float64)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y

    assert torch.equal(pr.odeint(func=f, y0=y0, t=t), pr.odeint(f, y0, t, event_fn=None))
    with pytest.raises(ValueError, match=r"t holds 3 times with event_fn; expected two"):
        pr.odeint(f, y0, t, event_fn=lambda t, y: y[0])
    for call in (lambda: pr.odeint(f, y0, t, func=f), lambda: pr.odeint(y0=y0, t=t)):
        with pytest.raises(TypeError, match=r"expected one of them: odeint\(f, y0, t\)"):
            call()


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_odeint_on_times_that_are_hardly_apart(method: str) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    t = torch.tensor([1.0, 1.0 + 1e-15], dtype=torch.float64)
    ours, theirs = (
        module.odeint(lambda t, y: -y, torch.ones(2, dtype=torch.float64), t, method=method)
        for module in (pr, torchdiffeq)
    )
    assert torch.allclose(ours, theirs, rtol=1e-13)


PAIRS = [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.complex64, torch.float64)]


@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_odeint_solves_a_tuple_of_several_dtypes_in_one(dtypes: Any, method: str) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    y0 = tuple(torch.ones(2 + i, dtype=dtype) for i, dtype in enumerate(dtypes))
    t = torch.linspace(0.0, 1.0, 3, dtype=torch.float64)

    def f(t: Tensor, y: Any) -> Any:
        return -y[0], y[0].sum() - y[1]

    ours, theirs = (module.odeint(f, y0, t, method=method) for module in (pr, torchdiffeq))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("nest", [False, True])
def test_a_norm_sees_a_state_without_axes_as_it_is(nest: bool) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    seen: dict[str, set[Any]] = {"ours": set(), "theirs": set()}
    one = torch.ones((), dtype=torch.float64)
    y0: Any = (one, torch.ones(2, dtype=torch.float64)) if nest else one
    t = torch.linspace(0.0, 1.0, 3, dtype=torch.float64)

    def f(t: Tensor, y: Any) -> Any:
        return tuple(-x for x in y) if nest else -y

    def solved(module: Any, who: str) -> Any:
        def norm(y: Any) -> Tensor:
            seen[who].add(tuple(x.shape for x in y) if nest else y.shape)
            return (y[0] if nest else y).abs().max()

        return module.odeint(f, y0, t, options={"norm": norm})

    ours, theirs = solved(pr, "ours"), solved(torchdiffeq, "theirs")
    assert seen["ours"] == seen["theirs"]
    assert torch.allclose(ours[0] if nest else ours, theirs[0] if nest else theirs, rtol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_ctrl_c_within_a_derivative_leaves_none_behind(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come when torch has entered a level of forward mode, and has not noted yet that it has to leave it."""
    from torch._functorch import predispatch

    def run() -> Tensor:
        problem, grid = pr.ODE(lambda t, u: -(u**3)), pr.TimeGrid.uniform(0.0, 1.0, 3, 2)
        method = {"fine": pr.ImplicitEuler(), "coarse": pr.Jacobian(), "stop": pr.Iterations(3)}
        return pr.solve(problem, torch.ones(2, dtype=torch.float64), grid, **method).u

    own, calls, expected = predispatch._enter_dual_level, 0, run()

    def interrupted() -> int:
        nonlocal calls
        calls, level = calls + 1, own()
        if calls == number:
            raise KeyboardInterrupt
        return level

    with monkeypatch.context() as changed:
        changed.setattr(predispatch, "_enter_dual_level", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert torch.equal(run(), expected)


@pytest.mark.parametrize("fine", [pr.Trapezoid(), pr.RadauIIA(2), pr.RK4()])
def test_runs_with_derivatives_are_verified_without_them(fine: pr.Integrator) -> None:
    problem, grid = pr.ODE(lambda t, u: -u + torch.cos(3 * t)), pr.TimeGrid.uniform(0.0, 1.0, 5, 2)
    u0, stop = torch.tensor([1.0, -0.5], dtype=torch.float64), pr.Tolerance(1e-6, 0.0)
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=pr.Jacobian("diagonal"), stop=stop, verify=True)
    assert sol.status is pr.Status.VERIFIED
    assert torch.allclose(sol.u, pr.serial(problem, u0, grid, fine=fine).u, rtol=1e-6)
