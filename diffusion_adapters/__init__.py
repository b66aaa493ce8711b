"""Diffusion models as ODEs in coordinates where they are plain, and `sample`, which solves them in parallel in time.

A `DiffusionModel` is a network, a `NoiseSchedule` and the name of what the network predicts; `guided` adds
classifier-free guidance; `probability_flow` makes a `parareal.ODE` of it.
"""

from diffusion_adapters import diffusers
from diffusion_adapters._digits import load_digits
from diffusion_adapters._discrete import Discrete
from diffusion_adapters._flow import ProbabilityFlow, probability_flow
from diffusion_adapters._functions import from_denoiser, from_velocity
from diffusion_adapters._gaussian import GaussianFlow
from diffusion_adapters._mixture import GaussianMixture
from diffusion_adapters._model import DiffusionModel, guided
from diffusion_adapters._noise_schedule import NoiseSchedule
from diffusion_adapters._plan import plan
from diffusion_adapters._prediction import convert
from diffusion_adapters._sample import SampleResult, sample
from diffusion_adapters._schedules import EDM, VE, VP, CosineVP, Flow
from diffusion_adapters._sde import ReverseSDE, reverse_sde
from diffusion_adapters._stochastic import Ancestral, SDEDPMSolverPP

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
