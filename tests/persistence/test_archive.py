"""What is saved comes back as it was, bit for bit, or with an error that says why not."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import random
import signal
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, on_leaves
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 4.0, slices=4, steps=2)
SCHEDULES = (pr.Barrier(), pr.Wavefront(), pr.Windowed(1))


def run(u0: Any = None, **options: Any) -> pr.Solution:
    u0 = torch.ones(2, 3, dtype=torch.float64) if u0 is None else u0
    problem = pr.ODE(lambda t, u: on_leaves(lambda leaf: -leaf * leaf, u))
    return pr.solve(problem, u0, GRID, **{"fine": pr.RK4(), "coarse": pr.Euler(), "throw": False, **options})


def assert_identical(a: Any, b: Any, where: str = "solution") -> None:
    """The same types, structure, numbers and bits, all the way down."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert a.detach().contiguous().numpy(force=True).tobytes() == b.contiguous().numpy().tobytes(), where
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), where
    elif isinstance(a, Enum) or a is None or isinstance(a, str | int):
        assert a == b, where
    elif isinstance(a, float):
        assert np.float64(a).tobytes() == np.float64(b).tobytes(), where
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{where}[{i}]")
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}[{key!r}]")
    else:
        assert dataclasses.is_dataclass(a), where
        for field in dataclasses.fields(a):
            if field.name == "data":  # of per-sample data the digest is kept
                assert a.digest == b.digest
            elif field.name == "continuous":  # it needs the problem, which no file holds
                assert b.continuous is None
            else:
                assert_identical(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")


def there_and_back(sol: pr.Solution, path: Path) -> pr.Solution:
    sol.save(path)
    return pr.Solution.load(path)


@given(own.cases(), own.corrections(), st.sampled_from(SCHEDULES), st.sampled_from(("last", "all")), st.data())
def test_a_solution_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    case: Case,
    coarse: pr.Correction,
    schedule: pr.Schedule,
    keep: Any,
    data: st.DataObject,
) -> None:
    stop = pr.Iterations(data.draw(st.integers(1, 4))) | pr.Tolerance(1e-3)
    sol = pr.solve(
        case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, schedule=schedule, stop=stop, keep=keep
    )
    assert_identical(sol, there_and_back(sol, tmp_path_factory.mktemp("runs") / "sol"))


@given(own.cases(batch=(3,)), own.corrections(), st.sampled_from(SCHEDULES), st.sampled_from(("last", "all")))
def test_so_does_a_batch(
    tmp_path_factory: pytest.TempPathFactory, case: Case, coarse: pr.Correction, schedule: pr.Schedule, keep: Any
) -> None:
    sol = pr.solve(
        case.problem,
        case.u0,
        case.grid,
        fine=case.fine,
        coarse=coarse,
        schedule=schedule,
        stop=pr.Tolerance(1e-2),
        keep=keep,
        samples=True,
    )
    assert_identical(sol, there_and_back(sol, tmp_path_factory.mktemp("runs") / "sol"))


def stopped() -> pr.Solution:
    return run(stop=pr.Tolerance(0.0, 0.0), callback=lambda report: report.iteration == 2, schedule=pr.Wavefront())


def interrupted() -> pr.Solution:
    def callback(report: pr.IterationReport) -> None:
        raise KeyboardInterrupt

    try:
        run(callback=callback, coarse=pr.Identity(), schedule=pr.Windowed(2))
    except KeyboardInterrupt as error:
        return error.solution  # type: ignore[attr-defined]
    raise AssertionError


KINDS: dict[str, Any] = {
    "stopped": stopped,
    "interrupted": interrupted,
    "failed": lambda: run(stop=pr.Tolerance(0.0, 0.0), max_iterations=1),
    "not finite": lambda: run(torch.tensor([1.0, float("inf")])),
    "two edges": lambda: run(dense=False),
    "no samples": lambda: run(torch.empty(0, 2), samples=True),
    "sequential": lambda: pr.serial(pr.ODE(lambda t, u: -u), torch.ones(()), GRID, fine=pr.RK4()),
    "half precision": lambda: run((torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16))),
    "complex": lambda: run({"b": torch.tensor(0.5 + 0.1j), "a": [torch.tensor([1j], dtype=torch.complex128)]}),
    "with gradients": lambda: run(torch.ones(2, requires_grad=True)),
    "conjugate": lambda: run(torch.tensor([0.1 + 1j]).conj()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_solution_comes_back(kind: str, tmp_path: Path) -> None:
    sol = KINDS[kind]()
    if kind == "half precision":  # numpy has no bfloat16
        assert torch.equal(there_and_back(sol, tmp_path / "sol").us[0], sol.us[0])
        return
    assert_identical(sol, there_and_back(sol, tmp_path / "sol"))


def test_a_saved_solution_saves_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    there_and_back(run(keep="all"), first).save(second)
    assert first.read_bytes() == second.read_bytes()


def test_nothing_in_the_file_is_code(tmp_path: Path) -> None:
    run().save(tmp_path / "sol")
    with safetensors.safe_open(tmp_path / "sol", framework="pt") as file:
        content = json.loads(file.metadata()["parareal"])
    assert (content["format"], content["version"], content["status"]) == ("parareal.Solution", 1, "FINAL")


def test_other_kinds_of_nests_are_refused_by_name(tmp_path: Path) -> None:
    Pair = collections.namedtuple("Pair", "a b")
    for u0, message in (
        (Pair(torch.ones(1), torch.ones(1)), "a Pair.*expected tuples, lists and dicts"),
        ({1: torch.ones(1)}, "a dict with the key 1; expected strings as keys: '1'"),
    ):
        with pytest.raises(TypeError, match=message):
            run(u0).save(tmp_path / "sol")
    assert list(tmp_path.iterdir()) == []


def test_saving_takes_the_place_of_an_older_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sol"
    sol = run(stop=pr.Iterations(1))
    sol.save(path)
    before = path.read_bytes()

    def fails(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="no space"):
        run().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["sol"]


# --- damaged and foreign files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "sol"
    run(keep="all").save(path)
    return path


@given(st.data())
def test_a_truncated_file_is_refused(whole: Path, data: st.DataObject) -> None:
    content, path = whole.read_bytes(), whole.with_name("cut")
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=r"cut' is damaged or no solution.*solution\.save\(path\) wrote"):
        pr.Solution.load(path)


@given(st.data())
def test_a_file_with_a_wrong_byte_is_refused_or_harmless(whole: Path, data: st.DataObject) -> None:
    content, path = bytearray(whole.read_bytes()), whole.with_name("hit")
    size = int.from_bytes(content[:8], "little")
    part = data.draw(st.sampled_from(((0, 8), (8, 8 + size), (8 + size, len(content)))))
    at, bits = data.draw(st.integers(part[0], part[1] - 1)), data.draw(st.integers(1, 255))
    content[at] ^= bits
    path.write_bytes(bytes(content))
    with contextlib.suppress(ValueError):
        sol = pr.Solution.load(path)
        assert_identical(sol, pr.Solution.load(whole))  # white space, or another byte that is True as well


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    with pytest.raises(FileNotFoundError, match="no file"):
        pr.Solution.load(path)
    with pytest.raises(ValueError, match="is no file"):
        pr.Solution.load(tmp_path)
    safetensors.torch.save_file({"x": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="a file of safetensors, but no solution"):
        pr.Solution.load(path)
    for header in ("{}", "[3]", '"me"', '{"format": "other.Solution", "version": 1}'):
        safetensors.torch.save_file({"x": torch.ones(2)}, path, {"parareal": header})
        with pytest.raises(ValueError, match="a file of safetensors, but no solution"):
            pr.Solution.load(path)
    torch.save(torch.ones(2), path)
    with pytest.raises(ValueError, match="damaged or no solution"):
        pr.Solution.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged or no solution"):
        pr.Solution.load(path)


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parareal.results._tensor_file.VERSION", 2)
    run().save(tmp_path / "sol")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=rf"version 2 of the format.*expected version 1.*wrote it, '{pr.__version__}'"):
        pr.Solution.load(tmp_path / "sol")


def test_where_no_file_can_be_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*none'; make it before"):
        run().save(tmp_path / "none" / "sol")
    with pytest.raises(ValueError, match="is a folder; expected the name of a file"):
        run().save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_safetensors_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sol = run()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: sol.save(tmp_path / "sol"), lambda: pr.Solution.load(tmp_path / "sol")):
        with pytest.raises(ImportError, match=r"pip install 'torch-parareal\[save\]'"):
            call()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that was just opened
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_ctrl_c_while_a_file_is_read_is_not_taken_for_damage(whole: Path) -> None:
    """It may come at any time: the file is read, or the interruption arrives."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    begun = time.perf_counter()
    pr.Solution.load(whole)
    length, draw, read = time.perf_counter() - begun, random.Random(0), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 1.2 * length))
                    pr.Solution.load(whole)
                    read += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0.0)
            except KeyboardInterrupt:
                pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert read < 60
