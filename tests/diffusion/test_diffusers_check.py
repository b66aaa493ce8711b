"""The pipeline's own scheduler as a check: no false alarm, no wrong image, and a sentence where it cannot be had."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusion.pipelines import IMAGE, KEPT, POOLED, SIZE, STABLE, TEXT, dit, sd, sd3
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from diffusion_adapters.diffusers import _phases, _replay
from diffusion_adapters.diffusers._check import describe
from diffusion_adapters.diffusers._scheduler_rules import translate

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*scheduler.*:FutureWarning"),
]

D = diffusers
GIVEN: dict[str, Any] = {**TEXT, **SIZE, "num_inference_steps": 9, "output_type": "latent"}


def run(pipe: Any, **more: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        given = {**GIVEN, "generator": torch.Generator().manual_seed(0), **more}
        return torch.as_tensor(pipe(**given, return_dict=False)[0])


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def same_steps(kind: type, of: str = "", *, eta: float | None = None, **given: Any) -> Any:
    """A scheduler with the levels of Stable Diffusion, in a pipeline of some kind."""
    more = {} if eta is None else {"eta": eta}
    return pytest.param(lambda: sd(of, kind(**STABLE)), {**given, **more}, id=f"{kind.__name__} {of}")


KINDS = [
    same_steps(D.DPMSolverMultistepScheduler),
    same_steps(D.UniPCMultistepScheduler),
    same_steps(D.HeunDiscreteScheduler),
    same_steps(D.DDIMScheduler, eta=0.5),
    same_steps(D.EulerAncestralDiscreteScheduler, num_images_per_prompt=2),
    same_steps(D.HeunDiscreteScheduler, "Img2Img", image=IMAGE, strength=0.6),
    same_steps(D.DEISMultistepScheduler, "Inpaint", **KEPT, strength=0.7),
    same_steps(D.HeunDiscreteScheduler, "Inpaint", **KEPT, strength=0.7),
    pytest.param(lambda: sd3(), POOLED, id="flow"),
    pytest.param(lambda: sd3("Inpaint", 16), {**POOLED, **KEPT, "strength": 0.8}, id="flow Inpaint"),
    pytest.param(
        lambda: dit(D.DDPMScheduler(clip_sample=False)),
        {"class_labels": [3, 900], "guidance_scale": 3.0, "output_type": "pt"},
        id="every sample twice",
    ),
]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("make", "given"), KINDS)
def test_a_run_that_is_right_passes(make: Callable[[], Any], given: dict[str, Any]) -> None:
    """And what is compared is the distance from the scheduler: an end that is moved is found to be that far off."""
    pipe = make()
    parallel = da.diffusers.parallelize(pipe, rtol=1e-6, check=True)
    if "class_labels" in given:
        pipe(**given, num_inference_steps=3)  # which takes no prompt
        parallel(**given, num_inference_steps=9, generator=torch.Generator().manual_seed(0))
    else:
        run(parallel, **given)
    check = parallel.check
    assert check.passed
    assert not check.sequential
    assert check.extra_rounds == 0
    assert check.reason == ""
    assert check.difference.dtype == torch.float64
    assert check.largest == float(check.difference.max()) <= 1e-5 < 1e-3
    assert 0 < check.tolerance < 1e-3


LEVELS: list[dict[str, Any]] = [STABLE, {"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"}]
SPACED = [{"timestep_spacing": spacing} for spacing in ("leading", "linspace", "trailing")]
SIGMAS: list[dict[str, Any]] = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]
FAMILIES: list[tuple[type, list[list[dict[str, Any]]]]] = [
    (D.DDIMScheduler, [SPACED, [{"clip_sample": c, "set_alpha_to_one": not c} for c in (True, False)]]),
    (D.DDPMScheduler, [SPACED, [{"clip_sample": False}, {"clip_sample_range": 3.0}]]),
    (D.EulerDiscreteScheduler, [SPACED, SIGMAS]),
    (D.EulerAncestralDiscreteScheduler, [SPACED]),
    (D.HeunDiscreteScheduler, [SPACED, SIGMAS]),
    (D.DPMSolverMultistepScheduler, [SPACED, SIGMAS, [{"solver_order": order} for order in (1, 2, 3)]]),
    (D.UniPCMultistepScheduler, [SPACED, [{"solver_order": order} for order in (1, 2, 3)]]),
    (D.DEISMultistepScheduler, [SPACED, [{"solver_order": order} for order in (1, 2, 3)]]),
]


@examples(5)
@given(data=st.data(), levels=st.sampled_from(LEVELS), steps=st.integers(2, 10), rtol=st.sampled_from([2e-5, 1e-3]))
def test_no_scheduler_gives_a_wrong_image(data: st.DataObject, levels: dict[str, Any], steps: int, rtol: float) -> None:
    """What passes is the pipeline's own result, within the tolerance; what does not is that result, bit for bit."""
    kind, choices = data.draw(st.sampled_from(FAMILIES))
    config = {**levels}
    for options in choices:
        config |= data.draw(st.sampled_from(options))
    prediction = data.draw(st.sampled_from(["epsilon", "v_prediction"]))
    of, more = data.draw(st.sampled_from([("", {}), ("Img2Img", {"image": IMAGE, "strength": 0.8})]))
    pipe = sd(of, kind(**config, prediction_type=prediction))
    parallel = da.diffusers.parallelize(pipe, rtol=rtol)
    more = {**more, "num_inference_steps": steps, "guidance_scale": data.draw(st.sampled_from([1.0, 5.0]))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = run(parallel, **more)
        except ValueError:  # refused
            assume(False)
        expected = run(pipe, **more)
    if parallel.check.sequential:
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(expected))
    else:
        assert parallel.check.passed
        assert distance(value, expected) <= parallel.check.tolerance


# --- wrong steps ------------------------------------------------------------------------------------------------------


def wrongly(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Makes translations wrong."""
    right = _phases.translated
    monkeypatch.setattr(_phases, "translated", lambda *args: change(right(*args)))


def bent(translation: Any) -> Any:
    """One of the levels is near the next."""
    times = translation.times.clone()
    times[4] = 0.3 * times[4] + 0.7 * times[5]
    return replace(translation, times=times)


WRONG: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "another method": (
        lambda: D.DPMSolverMultistepScheduler(**STABLE, solver_order=3),
        lambda t: replace(t, fine=pr.Euler()),
    ),
    "another level": (lambda: D.EulerDiscreteScheduler(**STABLE), bent),
    "another prediction": (lambda: D.DDIMScheduler(**STABLE), lambda t: replace(t, prediction="v")),
    "another corrector": (lambda: D.UniPCMultistepScheduler(**STABLE), lambda t: replace(t, fine=pr.UniPC(1))),
    "no noise": (
        lambda: D.EulerAncestralDiscreteScheduler(**STABLE),
        lambda t: replace(t, fine=pr.Euler(), noise=None),
    ),
    "two stages": (lambda: D.HeunDiscreteScheduler(**STABLE), bent),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.sweep(3)
def test_steps_that_are_not_the_schedulers_end_in_the_pipelines_own_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, change = WRONG[name]
    pipe = sd(scheduler=scheduler())
    ends = []
    expected = run(pipe, generator=(own := torch.Generator().manual_seed(0)))
    ends.append(torch.randn(3, generator=own))
    wrongly(monkeypatch, change)
    parallel = da.diffusers.parallelize(pipe)
    with pytest.warns(RuntimeWarning, match=rf"{type(pipe.scheduler).__name__}\(.*steps_offset=1.*in sequence"):
        value = run(parallel, generator=(own := torch.Generator().manual_seed(0)))
    ends.append(torch.randn(3, generator=own))
    assert torch.equal(value, expected)
    assert torch.equal(*ends)
    assert parallel.check.sequential
    assert parallel.check.passed is False
    assert parallel.check.largest > parallel.check.tolerance
    unchecked = da.diffusers.parallelize(pipe, check=False)
    off = distance(run(unchecked), expected)
    assert off > parallel.check.tolerance  # which would have been returned
    assert unchecked.check.passed is None
    assert unchecked.check.reason


def test_the_global_generator_and_lists_of_generators_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sd(scheduler=D.EulerAncestralDiscreteScheduler(**STABLE))
    many = {"num_images_per_prompt": 2}
    for made in (lambda: None, lambda: [torch.Generator().manual_seed(i) for i in (3, 4)]):
        with monkeypatch.context() as patch:
            expected = run(pipe, generator=made(), **many)
            wrongly(patch, bent)
            with pytest.warns(RuntimeWarning, match="in sequence"):
                assert torch.equal(run(da.diffusers.parallelize(pipe), generator=made(), **many), expected)


def test_callbacks_run_again_with_the_pipelines_own_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def callback(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return given

    wrongly(monkeypatch, bent)
    with pytest.warns(RuntimeWarning, match="in sequence"):
        run(da.diffusers.parallelize(sd()), callback_on_step_end=callback)
    assert seen[-9:] == list(range(9))


# --- runs that have not converged -------------------------------------------------------------------------------------


def lying(monkeypatch: pytest.MonkeyPatch, times: float, always: bool = False) -> None:
    """Runs are content with errors that are so many times as large as what they were told, or only at first."""
    honest, told = pr.Tolerance, []

    def tolerance(rtol: float = 1e-4, **more: Any) -> Any:
        if rtol not in told:
            told.append(rtol)
        return honest(rtol=rtol * times if always or rtol == max(told) else rtol, **more)

    monkeypatch.setattr(pr, "Tolerance", tolerance)


def test_a_run_that_has_not_converged_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sd()
    given = {"num_inference_steps": 24}
    expected = run(pipe, **given)
    honest = da.diffusers.parallelize(pipe)
    run(honest, **given)
    lying(monkeypatch, 3e3)
    parallel = da.diffusers.parallelize(pipe)
    value = run(parallel, **given)
    assert distance(value, expected) <= 1e-4
    assert parallel.check.passed
    assert not parallel.check.sequential
    assert parallel.check.extra_rounds > 0
    unchecked = da.diffusers.parallelize(pipe, check=False)
    assert distance(run(unchecked, **given), expected) > 1e-3
    assert unchecked.solution.stats.rounds == parallel.solution.stats.rounds - parallel.check.extra_rounds


def test_a_run_that_is_verified_passes() -> None:
    pipe = sd()
    given = {"num_inference_steps": 24}
    parallel = da.diffusers.parallelize(pipe, verify=True, check=True)
    assert distance(run(parallel, **given), run(pipe, **given)) <= 1e-4
    assert parallel.solution.status is pr.Status.VERIFIED
    assert parallel.check.passed


def test_a_run_that_never_converges_ends_in_the_pipelines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sd()
    expected = run(pipe)
    lying(monkeypatch, 1e8, always=True)
    parallel = da.diffusers.parallelize(pipe)
    with pytest.warns(RuntimeWarning, match="DPMSolverMultistepScheduler"):
        assert torch.equal(run(parallel), expected)
    assert parallel.check.sequential


@pytest.mark.parametrize("less", [{"stop": pr.Iterations(1)}, {"max_iterations": 2}], ids=str)
def test_less_that_was_asked_for_is_what_comes_with_a_warning(less: dict[str, Any]) -> None:
    pipe = sd()
    expected = run(pipe)
    parallel = da.diffusers.parallelize(pipe, **less, width=9, coarse="none")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = run(parallel)
    said = [str(one.message) for one in caught if one.category is RuntimeWarning]
    assert any(re.search("away from the result.*stop and max_iterations", text) for text in said)
    off = distance(value, expected)
    assert off > 1e-3
    assert parallel.check.passed is False
    assert not parallel.check.sequential
    assert parallel.check.extra_rounds == 0
    enough = da.diffusers.parallelize(pipe, stop=pr.Iterations(9))
    run(enough)
    assert enough.check.passed


# --- where it cannot be had -------------------------------------------------------------------------------------------


class Raising(D.EulerDiscreteScheduler):
    """Cannot be stepped outside of its pipeline."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not here")


def test_a_scheduler_that_cannot_be_replayed_loses_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can it be tried: here the trial is left out."""
    expected = run(sd(scheduler=D.EulerDiscreteScheduler(**STABLE)))
    monkeypatch.setattr(_phases, "translated", lambda *args: translate(*args[:3]))
    parallel = da.diffusers.parallelize(sd(scheduler=Raising(**STABLE)))
    with pytest.warns(RuntimeWarning, match=r"not compared.*Raising.step raised RuntimeError.*not here"):
        assert distance(run(parallel), expected) <= 1e-4
    assert parallel.check.passed is None
    assert parallel.check.difference is None
    assert "not here" in parallel.check.reason
    with warnings.catch_warnings():
        run(da.diffusers.parallelize(parallel.pipe, check=False))


def test_a_method_of_ones_own_is_not_compared() -> None:
    parallel = da.diffusers.parallelize(sd(), solver="ddim", check=True)
    run(parallel)
    assert "ddim" in parallel.check.reason
    assert parallel.solution.converged


def test_a_coarse_propagator_of_other_states_is_not_compared() -> None:
    pipe = sd(scheduler=D.HeunDiscreteScheduler(**STABLE))
    quiet = da.diffusers.parallelize(pipe, coarse="same")
    value = run(quiet)
    assert "coarse='same'" in quiet.check.reason
    with pytest.warns(RuntimeWarning, match="not compared.*coarse='same'"):
        assert torch.equal(run(da.diffusers.parallelize(pipe, coarse="same", check=True)), value)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("coarse", ["same", "none", pr.Euler()], ids=str)
@pytest.mark.parametrize("slices", [None, 3])
def test_coarse_propagators_of_the_same_states(coarse: Any, slices: int | None) -> None:
    pipe = sd(scheduler=D.DDIMScheduler(**STABLE))
    parallel = da.diffusers.parallelize(pipe, coarse=coarse, slices=slices, rtol=1e-6)
    run(parallel)
    assert parallel.check.passed
    assert parallel.check.largest <= 1e-5


def test_stages_are_told_apart_where_lanes_are_at_different_ones() -> None:
    pipe = sd(scheduler=D.HeunDiscreteScheduler(**STABLE))
    expected = run(pipe)
    for schedule in (pr.Wavefront(), pr.Barrier()):
        parallel = da.diffusers.parallelize(pipe, coarse="none", slices=3, schedule=schedule, check=True)
        assert distance(run(parallel), expected) <= 1e-4
        assert parallel.check.passed


def test_samples_that_are_not_finite_are_no_difference() -> None:
    pipe = sd()
    handle = pipe.unet.register_forward_hook(lambda module, args, value: (value[0] * float("nan"),))
    parallel = da.diffusers.parallelize(pipe)
    try:
        with pytest.warns(RuntimeWarning, match="StableDiffusionPipeline"):
            value = run(parallel)
    finally:
        handle.remove()
    assert torch.isnan(value).all()
    assert not parallel.check.sequential


def test_a_call_that_ends_early_is_not_compared() -> None:
    def callback(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 3
        return given

    parallel = da.diffusers.parallelize(sd())
    assert parallel.check is None
    run(parallel, callback_on_step_end=callback)
    assert parallel.check.passed is None
    assert parallel.check.reason


def test_arguments() -> None:
    with pytest.raises(TypeError, match="check is a str"):
        da.diffusers.parallelize(sd(), check="yes")  # pyright: ignore[reportArgumentType]
    assert describe(D.EulerDiscreteScheduler(beta_end=0.01)) == "EulerDiscreteScheduler(beta_end=0.01)"


def test_nothing_of_it_is_seen_in_the_global_generator_or_the_scheduler() -> None:
    pipe = sd(scheduler=D.EulerAncestralDiscreteScheduler(**STABLE))
    before = dict(vars(pipe.scheduler))
    ends = []
    for check in (True, False):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            da.diffusers.parallelize(pipe, check=check)(**GIVEN)
            ends.append(torch.randn(3))
    assert torch.equal(*ends)
    assert all(vars(pipe.scheduler)[key] is value for key, value in before.items())


def test_normals_are_given_to_whoever_draws() -> None:
    given = torch.arange(12.0).reshape(2, 2, 3)
    mode = _replay._Given(given)
    with mode:
        mode.step = 1
        assert torch.equal(torch.randn((2, 3), dtype=torch.float64), given[1].double())
        assert torch.randn((3, 3)).shape == (3, 3)
        mode.step = 2
        assert not torch.equal(torch.randn((2, 3)), given[1])
