"""An equation that methods are measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def swing(t: Any, u: Any) -> Any:
    """A nonlinear system that depends on time; arrays or tensors of shape (3,)."""
    x, y, z = u
    stack, sin, cos = (torch.stack, torch.sin, torch.cos) if isinstance(u, Tensor) else (np.stack, np.sin, np.cos)
    return stack([y * cos(t), -sin(x) + 0.3 * z, x * y - 0.5 * z + sin(2 * t)])


START = torch.tensor([0.8, -0.3, 0.4], dtype=torch.float64)
