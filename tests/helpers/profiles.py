"""Profiles of Hypothesis and torch's threads, for the tests and for all processes that they start."""

import os

import torch
from hypothesis import HealthCheck, settings

# The tensors of the tests are tiny: handing parts of them to other threads takes longer than the work itself.
torch.set_num_threads(1)

for name, examples in (("ci", 4), ("nightly", 100), ("thorough", 500)):
    settings.register_profile(
        name,
        deadline=None,
        derandomize=name == "ci",
        max_examples=examples,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)
