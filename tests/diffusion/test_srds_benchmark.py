"""The experiments of `benchmarks/srds.py` in their smallest form: they run, and their counts obey the laws."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import domains
import samplers
import srds
from paper import clock, failures, launch_bound, networks, orders, propagators, refinements
from paper.report import Report
from paper.runs import PIPELINED, VANILLA, recorded, side_by_side

import parareal as pr

DIGITS = networks.load("digits")


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path, quick=True)


def rows(report: Report, name: str) -> list[list[str]]:
    """The cells of a table that was kept, without its header."""
    lines = [line for line in (report.folder / f"{name}.md").read_text(encoding="utf-8").splitlines() if "|" in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("solver", list(orders.SOLVERS))
def test_orders_obey_the_laws(report: Report, solver: str) -> None:
    orders.orders(report, ["digits"], 1, steps=(25,), solvers=(solver,))
    (row,) = rows(report, "a_orders")
    slices, iterations, vanilla, pipelined = (float(cell) for cell in row[3:7])
    assert row[:3] == ["digits", solver, "25"]
    assert iterations <= slices == 5
    assert pipelined < vanilla
    assert pipelined == pr.theory.rounds(PIPELINED, 5, 5, int(iterations))
    assert vanilla == pr.theory.rounds(VANILLA, 5, 5, int(iterations))
    assert float(row[-1]) <= 1e-3


def test_broken_laws_are_noticed() -> None:
    found = side_by_side(DIGITS, orders.ORDERS, [0], 9)
    orders.check_laws(found)
    found["pipelined"].rounds[0] = found["vanilla"].rounds[0]
    with pytest.raises(AssertionError, match="rounds pipelined"):
        orders.check_laws(found)
    found["vanilla"].iterations[0] = 4
    with pytest.raises(AssertionError, match=r"\[4\] iterations of 3 slices"):
        orders.check_laws(found)


def test_refined_samples_come_nearer_and_end_as_the_sequential_ones(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    after, sequential = refinements.refined(DIGITS, 4, 9, [0, 1, 2, 3])
    far = [float((x - sequential).norm()) for x in after]
    assert len(far) == 4
    assert far[0] > far[1] > far[2] > far[3]
    assert far[3] < 1e-5 * float(sequential.norm())  # three slices

    def quality(samples: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        return {"frechet": 1.0 + len(samples), "accuracy": float(labels.sum()), "p": 0.5}

    stub = replace(DIGITS, quality=quality)
    monkeypatch.setattr(networks, "load", lambda name: stub)
    refinements.refinements(report, ["digits"], 4, steps=(9,), most=1)
    found = rows(report, "b_refinements")
    assert [row[3] for row in found] == ["0", "1", "all (3)", "default", "serial"]
    assert {tuple(row[8:]) for row in found} == {("5", "6", "0.5")}
    assert [int(row[5]) for row in found if row[3] != "default"] == [3, 5, 9, 9]
    default = next(row for row in found if row[3] == "default")
    assert 1 < float(default[5]) < 9
    assert float(default[6]) <= 1e-3
    assert (report.folder / "b_samples.png").stat().st_size > 1000


def test_samples_of_a_record_are_those_of_the_sampler() -> None:
    model, noise = DIGITS.given([0, 1]), DIGITS.noise([0, 1])
    run, serial, samples = recorded(model, noise, 9)
    import diffusion_adapters as da

    torch.testing.assert_close(samples(serial.u), da.sample(model, noise, 9, parallel=False).samples)
    assert (run.iterations <= 3).all()


def test_failures_end_with_the_slices(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    every = failures.cases(DIGITS)
    assert len({case.name for case in every}) == len(every)
    chosen = [case for case in every if case.name in ("as it is", "coarse: the same, doubled")]
    monkeypatch.setattr(failures, "cases", lambda network: chosen)
    failures.failures(report, "digits", steps=9)
    plain, wild = rows(report, "f_failures")
    assert int(plain[1]) <= 3
    assert int(wild[1]) == 3
    assert float(wild[4]) > 100 * float(plain[4])  # on the way
    assert float(wild[5]) < 1e-5  # in the end


def test_a_sample_takes_the_rounds_that_it_takes_alone() -> None:
    _, together, _ = domains.drawn(DIGITS, 3, 12, "ddpm", 1.0)
    for seed in range(3):
        model, noise = DIGITS.given([seed]), DIGITS.noise([seed])
        alone = domains.da.sample(model, noise, 12, solver="ddpm", generator=domains.generators([seed], "ddpm"))
        assert alone.solution.stats.rounds == together[seed]


def test_the_default_beside_other_constants_is_the_default(report: Report) -> None:
    domains.constants(report, ["digits"], 1, steps=9)
    found = rows(report, "constants")
    defaults = [row for row in found if row[1].endswith("(default)")]
    assert [row[0] for row in defaults] == list(domains.DEFAULTS)
    assert {row[-1] for row in defaults} == {"1.00"}
    assert float(next(row[-1] for row in found if row[:2] == ["rtol", "0.0001"])) > 1.0


def test_waits_are_counted_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.CLOCK, "wall", False)
    model, noise = launch_bound.waiting(DIGITS.given([0]), 3600.0), DIGITS.noise([0])
    begun = clock.CLOCK.now()
    rounds = launch_bound.timed(model, noise, 9).out.solution.stats.rounds
    assert 3600.0 * rounds <= clock.CLOCK.now() - begun < 3600.0 * (rounds + 1)


def test_every_sampler_of_the_comparison_runs() -> None:
    for ways, solver in ((samplers.ODE, "ddim"), (samplers.SDE, "ddpm")):
        found = samplers.compare(ways, solver, 1.0, 9, 1)
        assert set(found) == set(ways)
        for method, row in found.items():
            assert 1 <= row.mean_rounds <= 2 * 9, method
            assert all(error <= 2e-3 for error in row.errors), method


def test_smaller_networks_are_coarse_propagators() -> None:
    assert propagators.compared(["digits", "photos"]) == ["digits"]
    assert propagators.compared(["digits", "fashion", "strokes"]) == ["digits", "strokes"]
    strokes = networks.load("strokes")
    ((name, small),) = propagators.cheaper(strokes, 0).items()
    assert name == "a trained network, 16 times as small"
    run = {"coarse": propagators.one_step(small), "schedule": PIPELINED, "slices": 3}
    found = side_by_side(strokes, {"run": run}, [0], 9)["run"]
    assert found.iterations[0] <= 3
    assert found.errors[0] <= 1e-3


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in ((["order"], "experiments order are unknown"), (["--networks", "digit"], "networks digit")):
        monkeypatch.setattr(sys, "argv", ["srds.py", *words])
        with pytest.raises(SystemExit):
            srds.main()
        assert message in capsys.readouterr().err
