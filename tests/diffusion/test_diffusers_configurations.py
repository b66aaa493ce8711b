"""Any configuration of any scheduler gives what the pipeline gives, or is refused by name.

Runs to as many iterations as there are steps are the sequential run of our own methods: what differs then was read
wrongly from the scheduler. They are not checked by the scheduler, which would put its own result in place of a wrong
one. The network is made up, the loop is that of every pipeline; see `configurations`.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import diffusion_adapters as da
import parareal as pr

pytest.importorskip("diffusers")

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusion.configurations import OPTIONS, Bare, Case, Outcome, Waves, compare, distance, draw

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the schedulers' own, of settings that are drawn on purpose
]

SERIAL: dict[str, Any] = {"stop": pr.Iterations(100), "width": 1}
STABLE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def assert_right(case: Case, out: Outcome) -> None:
    assert out.verdict != "wrong", f"{case}: {out}"
    if out.verdict == "refused":
        named = case.scheduler in out.said or any(name in out.said for name in {**case.config, **case.call})
        assert named, out.said
        assert "not known here" not in out.said, f"{case}: {out.said}"  # all of these are
        assert "expected" in out.said


@given(rng=st.randoms(use_true_random=False))
def test_steps_are_those_of_the_scheduler(rng: random.Random) -> None:
    case = draw(rng, steps=12)
    assert_right(case, compare(case, **SERIAL))


@examples(8)
@given(rng=st.randoms(use_true_random=False))
def test_the_check_raises_no_false_alarm(rng: random.Random) -> None:
    """Where the result is the pipeline's, the scheduler finds so, and no round is added."""
    out = compare(draw(rng, steps=9), check=True)
    if out.verdict == "equal":
        assert out.check.passed, out
        assert not out.check.sequential
        assert out.check.extra_rounds == 0


@pytest.mark.sweep(12)
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("scheduler", OPTIONS)
def test_the_check_of_a_few_steps(scheduler: str, steps: int) -> None:
    """Some visit one timestep more than there are steps, by an empty step or by a second stage."""
    out = compare(Case(scheduler, {}, {"num_inference_steps": steps}), check=True)
    assert out.verdict == "equal", out
    assert out.check.passed, out
    assert out.check.extra_rounds == 0


@pytest.mark.parametrize("scheduler", OPTIONS)
def test_most_configurations_are_taken(scheduler: str) -> None:
    """Refusals are for what has no meaning: otherwise the test above would hold for an adapter that refuses all."""
    outs: list[Outcome] = []
    for seed in range(5):
        case = draw(random.Random(seed), scheduler, steps=4)
        outs.append(compare(case, **SERIAL))
        assert_right(case, outs[-1])
    assert any(out.verdict == "equal" for out in outs), outs


def run(scheduler: Any, how: dict[str, Any], **call: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The pipeline's result and ours, and that the generator is left where it leaves it."""
    case = Case("", {}, {"guidance_scale": 3.0, **call})
    theirs_in, ours_in = case.inputs(), case.inputs()
    theirs = Bare(Waves(), scheduler)(**theirs_in)
    ours = da.diffusers.parallelize(Bare(Waves(), scheduler), dtype=torch.float64, check=False, **how)(**ours_in)
    assert torch.equal(theirs_in["generator"].get_state(), ours_in["generator"].get_state())
    return theirs, ours


@pytest.mark.sweep(5)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize(("steps", "settings"), [(1, SERIAL), (7, SERIAL), (7, {"rtol": 1e-6})], ids=str)
def test_ddim_whose_last_step_ends_where_it_begins(
    steps: int, settings: dict[str, Any], eta: float, clip: bool
) -> None:
    scheduler = DDIMScheduler(
        **STABLE, steps_offset=1, clip_sample=clip, timestep_spacing="linspace", set_alpha_to_one=False
    )
    theirs, ours = run(scheduler, settings, num_inference_steps=steps, eta=eta)
    assert distance(ours, theirs) <= 1e-5


@pytest.mark.parametrize("more", [{}, {"use_karras_sigmas": True}], ids=str)
def test_heun_where_alpha_is_small(more: dict[str, Any]) -> None:
    """Heun's method is another in other coordinates."""
    scheduler = HeunDiscreteScheduler(beta_schedule="squaredcos_cap_v2", **more)
    theirs, ours = run(scheduler, SERIAL, num_inference_steps=7)
    assert distance(ours, theirs) <= 1e-4


def test_a_method_of_ones_own_steps_in_the_coordinates_of_schedulers() -> None:
    case = Case("HeunDiscreteScheduler", {"beta_schedule": "squaredcos_cap_v2"}, {"num_inference_steps": 9})
    theirs = case.pipeline()(**case.inputs())
    euler = Bare(Waves(), EulerDiscreteScheduler(beta_schedule="squaredcos_cap_v2"))  # the same levels
    ours = da.diffusers.parallelize(euler, solver="heun", dtype=torch.float64, check=False, **SERIAL)(**case.inputs())
    assert distance(ours, theirs) <= 1e-4


@pytest.mark.parametrize(
    ("scheduler", "steps", "said"),
    [
        (UniPCMultistepScheduler(**STABLE, solver_type="bh1"), 8, "solver_type='bh1'"),
        (UniPCMultistepScheduler(**STABLE, lower_order_final=False), 8, "lower_order_final=False"),
        (
            DPMSolverMultistepScheduler(
                **STABLE,
                solver_type="heun",
                lower_order_final=False,
                final_sigmas_type="sigma_min",
                use_karras_sigmas=True,
            ),
            8,
            "solver_type='heun'",
        ),
    ],
    ids=["bh1", "unipc order", "no length"],
)
def test_what_is_not_finite_by_itself_is_refused(scheduler: Any, steps: int, said: str) -> None:
    case = Case("", {}, {"num_inference_steps": steps})
    assert not Bare(Waves(), scheduler)(**case.inputs()).isfinite().all()
    with pytest.raises(ValueError, match=r"not finite in its own step.*expected") as info:
        da.diffusers.parallelize(Bare(Waves(), scheduler))(**case.inputs())
    assert said in str(info.value)


def test_noise_predicted_where_there_is_no_signal_is_refused() -> None:
    scheduler = DDIMScheduler(**STABLE, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    case = Case("", {}, {"num_inference_steps": 8})
    with pytest.raises(ValueError, match=r"DDIMScheduler begins without signal.*rescale_betas_zero_snr=False"):
        da.diffusers.parallelize(Bare(Waves(), scheduler))(**case.inputs())


class Halved(EulerDiscreteScheduler):
    """A subclass that steps otherwise."""

    def step(self, model_output: Any, *args: Any, **kwargs: Any) -> Any:
        return super().step(0.5 * model_output, *args, **kwargs)


class Churning(Bare):
    """A pipeline that tells the scheduler more than others do."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__(unet, scheduler)
        self.more = {"s_churn": 1.0}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = self.scheduler.step
        self.scheduler.step = lambda *a, **k: step(*a, **k, **self.more)
        return super().__call__(*args, **kwargs)


def test_a_subclass_that_steps_otherwise_is_refused() -> None:
    case = Case("", {}, {"num_inference_steps": 8})
    with pytest.raises(ValueError, match=r"Halved.*steps in a way that is not known here.*expected"):
        da.diffusers.parallelize(Bare(Waves(), Halved(**STABLE)))(**case.inputs())


def test_a_step_that_is_told_more_is_refused() -> None:
    case = Case("", {}, {"num_inference_steps": 8})
    with pytest.raises(ValueError, match=r"s_churn=1.0.*expected"):
        da.diffusers.parallelize(Churning(Waves(), EulerDiscreteScheduler(**STABLE)))(**case.inputs())


def test_a_first_timestep_that_is_there_twice_is_refused() -> None:
    """The scheduler begins at the second of them, and so one noise level late."""
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=100, use_exponential_sigmas=True, rescale_betas_zero_snr=True, prediction_type="sample"
    )
    case = Case("", {}, {"num_inference_steps": 9, "leave": 3, "indexed": False})
    with pytest.raises(ValueError, match="timestep 98 is there more than once"):
        da.diffusers.parallelize(Bare(Waves(), scheduler))(**case.inputs())
    case.call["indexed"] = True
    theirs = Bare(Waves(), scheduler)(**case.inputs())
    ours = da.diffusers.parallelize(Bare(Waves(), scheduler), dtype=torch.float64, check=False, **SERIAL)(
        **case.inputs()
    )
    assert distance(ours, theirs) <= 1e-4
