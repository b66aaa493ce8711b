"""Diffusion models as ODEs in simple coordinates, and `sample`, which solves them in parallel in time.

A `DiffusionModel` is a network, a `NoiseSchedule` and the name of what the network predicts; `guided` adds
classifier-free guidance; `probability_flow` makes a `parareal.ODE` of it.
"""

from diffusion_adapters import diffusers
from diffusion_adapters.equations._probability_flow import ProbabilityFlow, probability_flow
from diffusion_adapters.equations._reverse_sde import ReverseSDE, reverse_sde
from diffusion_adapters.models._digits import load_digits
from diffusion_adapters.models._from_functions import from_denoiser, from_velocity
from diffusion_adapters.models._gaussian_mixture import GaussianMixture
from diffusion_adapters.models._model import DiffusionModel, guided
from diffusion_adapters.models._prediction import convert
from diffusion_adapters.noise_schedules._base import NoiseSchedule
from diffusion_adapters.noise_schedules._discrete import Discrete
from diffusion_adapters.noise_schedules._named import EDM, VE, VP, CosineVP, Flow
from diffusion_adapters.sampling._gaussian_flow import GaussianFlow
from diffusion_adapters.sampling._plan import plan
from diffusion_adapters.sampling._sample import SampleResult, sample
from diffusion_adapters.sampling._stochastic_steps import Ancestral, SDEDPMSolverPP

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Ancestral",
    "CosineVP",
    "DiffusionModel",
    "Discrete",
    "Flow",
    "GaussianFlow",
    "GaussianMixture",
    "NoiseSchedule",
    "ProbabilityFlow",
    "ReverseSDE",
    "SDEDPMSolverPP",
    "SampleResult",
    "convert",
    "diffusers",
    "from_denoiser",
    "from_velocity",
    "guided",
    "load_digits",
    "plan",
    "probability_flow",
    "reverse_sde",
    "sample",
]
