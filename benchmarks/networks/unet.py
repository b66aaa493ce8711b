"""A U-Net with attention for small images: two resolutions, and attention at the lower one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import Condition, zero


class Residual(nn.Module):
    """Two convolutions; the condition scales and shifts in between."""

    def __init__(self, before: int, after: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), zero(nn.Conv2d(after, after, 3, padding=1))
        self.modulation = zero(nn.Linear(condition, 2 * after))
        self.short = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(functional.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.short(x) + self.conv2(self.dropout(functional.silu(h)))


class Attention(nn.Module):
    """Attention among the places of an image."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(3, 4)
        seen = functional.scaled_dot_product_attention(*parts.unbind(1))
        return x + self.out(seen.transpose(2, 3).reshape(x.shape))


class UNet(nn.Module):
    """F for images whose sides are multiples of 4: blocks of 2x2 pixels at full, of 4x4 at half resolution.

    Args:
        channels: Of the images.
        classes: Number of labels, without the one for "any".
        sizes: Channels at the two resolutions.
        condition: Size of the embedding of level and label.
        heads: Of the attention at the lower resolution.
        dropout: Share of channels dropped in training.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        sizes: tuple[int, int] = (24, 48),
        condition: int = 128,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        high, low = sizes
        self.condition = Condition(condition, classes)

        def residual(before: int, after: int) -> Residual:
            return Residual(before, after, condition, dropout)

        self.enter = nn.Conv2d(4 * channels, high, 3, padding=1)
        self.down = nn.ModuleList([residual(high, high), residual(high, high)])
        self.shrink = nn.Conv2d(high, low, 3, stride=2, padding=1)
        self.low_in, self.look_in = residual(low, low), Attention(low, heads)
        self.low_out, self.look_out = residual(2 * low, low), Attention(low, heads)
        self.low_last = residual(2 * low, low)
        self.grow = nn.Conv2d(low, high, 1)
        self.up = nn.ModuleList([residual(2 * high, high), residual(2 * high, high)])
        self.norm, self.leave = nn.GroupNorm(8, high), zero(nn.Conv2d(high, 4 * channels, 3, padding=1))

    def forward(self, y: Tensor, level: Tensor, label: Tensor) -> Tensor:
        c = self.condition(level, label)
        h = self.enter(functional.pixel_unshuffle(y, 2))
        kept = []
        for block in self.down:
            h = block(h, c)
            kept.append(h)
        low = self.shrink(h)
        first = self.look_in(self.low_in(low, c))
        deep = self.look_out(self.low_out(torch.cat((first, low), 1), c))
        deep = self.low_last(torch.cat((deep, first), 1), c)
        h = functional.interpolate(self.grow(deep), scale_factor=2.0)
        for block in self.up:
            h = block(torch.cat((h, kept.pop()), 1), c)
        return functional.pixel_shuffle(self.leave(functional.silu(self.norm(h))), 2)
