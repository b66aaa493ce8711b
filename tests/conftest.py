"""Settings shared by all tests: Hypothesis profiles and torch's threads.

The profile ``ci`` is the default: few examples, always the same. ``HYPOTHESIS_PROFILE=thorough`` looks for new ones.
"""

import os

import matplotlib
import torch
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")
# The tensors of the tests are tiny: handing parts of them to other threads takes longer than the work itself.
torch.set_num_threads(1)

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough",
    deadline=None,
    derandomize=False,
    max_examples=500,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
