"""A one-dimensional convolutional network for pen strokes: points along a line, each with an x and a y."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import Condition, zero


class Residual(nn.Module):
    """Two convolutions over the whole reach of a stroke; the condition scales and shifts in between."""

    def __init__(self, channels: int, condition: int, reach: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv1d(channels, channels, reach, padding=reach // 2)
        self.conv2 = zero(nn.Conv1d(channels, channels, reach, padding=reach // 2))
        self.modulation = zero(nn.Linear(condition, 2 * channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None].chunk(2, 1)
        h = self.norm2(self.conv1(functional.silu(self.norm1(x)))) * (1 + scale) + shift
        return x + self.conv2(functional.silu(h))


class StrokeNetwork(nn.Module):
    """F for strokes ``(B, 2, points)``.

    Args:
        classes: Number of labels, without the one for "any".
        points: Of a stroke.
        channels: Of the hidden layers.
        depth: Number of residual blocks.
        condition: Size of the embedding of level and label.
        reach: Points that a convolution sees, odd.
    """

    def __init__(
        self, classes: int, points: int = 8, channels: int = 64, depth: int = 4, condition: int = 96, reach: int = 5
    ) -> None:
        super().__init__()
        self.condition = Condition(condition, classes)
        self.enter = nn.Conv1d(2, channels, 1)
        self.place = nn.Parameter(0.02 * torch.randn(1, channels, points))
        self.blocks = nn.ModuleList(Residual(channels, condition, reach) for _ in range(depth))
        self.norm, self.leave = nn.GroupNorm(4, channels), zero(nn.Conv1d(channels, 2, reach, padding=reach // 2))

    def forward(self, y: Tensor, level: Tensor, label: Tensor) -> Tensor:
        c = self.condition(level, label)
        h = self.enter(y) + self.place
        for block in self.blocks:
            h = block(h, c)
        return self.leave(functional.silu(self.norm(h)))
