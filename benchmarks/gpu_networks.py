"""Networks of the shapes of Stable Diffusion 1.5's U-Net and of DiT-XL/2, in plain torch, without trained weights.

They cost what the originals cost. What they return is of no use, so `Task` puts a known model's prediction there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_adapters import VP


def embedded(t: Tensor, size: int) -> Tensor:
    """Times as sines and cosines, ``(B, size)``."""
    rates = torch.exp(-math.log(1e4) * torch.arange(size // 2, device=t.device) / (size // 2))
    angles = 1000 * t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


class Attention(nn.Module):
    """From x to a context, or to x itself."""

    def __init__(self, size: int, context: int | None, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(n, size, bias) for n in (size, context or size, context or size))
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        c = x if context is None else context
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q(x), self.k(c), self.v(c)))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """Two convolutions, and the time in between."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, before), nn.GroupNorm(32, after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.time = nn.Linear(time, after)
        self.short = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.short(x) + self.conv2(F.silu(self.norm2(h)))


class Spatial(nn.Module):
    """Attention among pixels, to the context, and a gated layer."""

    def __init__(self, size: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.GroupNorm(32, size), nn.Conv2d(size, size, 1), nn.Conv2d(size, size, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.own, self.cross = Attention(size, None, heads), Attention(size, context, heads)
        self.wide, self.narrow = nn.Linear(size, 8 * size), nn.Linear(4 * size, size)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.first(self.norm(x)).flatten(2).transpose(1, 2)
        h = h + self.own(self.norms[0](h))
        h = h + self.cross(self.norms[1](h), context)
        a, b = self.wide(self.norms[2](h)).chunk(2, -1)
        h = h + self.narrow(a * F.gelu(b))
        return x + self.last(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class UNet(nn.Module):
    """By default that of Stable Diffusion 1.5, for latents of 4 x 64 x 64 and 77 tokens: 859,520,964 parameters."""

    def __init__(
        self, sizes: Sequence[int] = (320, 640, 1280, 1280), context: int = 768, heads: int = 8, tokens: int = 77
    ) -> None:
        super().__init__()
        first, time = sizes[0], 4 * sizes[0]
        self.first = first
        self.time1, self.time2 = nn.Linear(first, time), nn.Linear(time, time)
        self.register_buffer("context", torch.randn(1, tokens, context))
        self.enter = nn.Conv2d(4, first, 3, padding=1)
        self.down, self.up, kept, now = nn.ModuleList(), nn.ModuleList(), [first], first
        for i, size in enumerate(sizes):
            deepest = i == len(sizes) - 1
            for _ in range(2):
                self.down.append(nn.ModuleList([Residual(now, size, time), *self._seen(size, context, heads, deepest)]))
                kept.append(now := size)
            if not deepest:
                self.down.append(nn.ModuleList([nn.Conv2d(size, size, 3, stride=2, padding=1)]))
                kept.append(size)
        self.middle = nn.ModuleList([Residual(now, now, time), Spatial(now, context, heads), Residual(now, now, time)])
        for i, size in reversed([*enumerate(sizes)]):
            for j in range(3):
                seen = self._seen(size, context, heads, i == len(sizes) - 1)
                last = [nn.Conv2d(size, size, 3, padding=1)] if j == 2 and i > 0 else []
                self.up.append(nn.ModuleList([Residual(now + kept.pop(), size, time), *seen, *last]))
                now = size
        self.norm, self.leave = nn.GroupNorm(32, first), nn.Conv2d(first, 4, 3, padding=1)

    @staticmethod
    def _seen(size: int, context: int, heads: int, deepest: bool) -> list[nn.Module]:
        return [] if deepest else [Spatial(size, context, heads)]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time2(F.silu(self.time1(embedded(t, self.first).to(x.dtype))))
        context = self.context.expand(len(x), -1, -1)
        h = self.enter(x)
        kept = [h]
        for parts in self.down:
            for part in parts:
                h = self._through(part, h, time, context)
            kept.append(h)
        for part in self.middle:
            h = self._through(part, h, time, context)
        for parts in self.up:
            h = torch.cat([h, kept.pop()], 1)
            for part in parts:
                if isinstance(part, nn.Conv2d):
                    h = F.interpolate(h, scale_factor=2.0)
                h = self._through(part, h, time, context)
        return self.leave(F.silu(self.norm(h)))

    @staticmethod
    def _through(part: nn.Module, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        if isinstance(part, Residual):
            return part(h, time)
        return part(h, context) if isinstance(part, Spatial) else part(h)


class Block(nn.Module):
    """A transformer block, whose norms the time and the label scale and shift."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.own, self.changes = Attention(size, None, heads, bias=True), nn.Linear(size, 6 * size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.changes(F.silu(c))[:, None].chunk(6, -1)
        x = x + gate1 * self.own(self.norms[0](x) * (1 + scale1) + shift1)
        return x + gate2 * self.narrow(F.gelu(self.wide(self.norms[1](x) * (1 + scale2) + shift2), approximate="tanh"))


class DiT(nn.Module):
    """By default DiT-XL/2 for latents of 4 x 32 x 32: 675,129,632 parameters with the fixed embedding of places."""

    def __init__(self, size: int = 1152, depth: int = 28, heads: int = 16, side: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, size, 2, stride=2)
        self.register_buffer("place", torch.randn(1, (side // 2) ** 2, size) / 4)
        self.time1, self.time2 = nn.Linear(256, size), nn.Linear(size, size)
        self.label = nn.Embedding(1001, size)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
        self.changes, self.leave = nn.Linear(size, 2 * size), nn.Linear(size, 2 * 2 * 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        c = self.time2(F.silu(self.time1(embedded(t, 256).to(x.dtype)))) + self.label.weight[:1]
        h = self.enter(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.changes(F.silu(c))[:, None].chunk(2, -1)
        h = self.leave(self.norm(h) * (1 + scale) + shift)
        side = x.shape[2] // 2
        h = h.reshape(len(x), side, side, 2, 2, 8).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(len(x), 8, *x.shape[2:])[:, :4]


class Task:
    """The prediction eps of data that is, in each number, near 1 or near -1; a network is called, and hardly counts.

    So a run has work to do, to the same result whatever the network and its rounding.
    """

    schedule = VP()

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
        self.network, self.dtype = network, dtype

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (
            f(t.double()).to(x.dtype)[:, None, None, None] for f in (self.schedule.alpha, self.schedule.sigma)
        )
        variance = 0.05
        total = alpha * alpha * variance + sigma * sigma
        side = torch.tanh(alpha * x / total)
        x0 = side + alpha * variance / total * (x - alpha * side)
        return (x - alpha * x0) / sigma + 1e-9 * self.network(x.to(self.dtype), t).to(x.dtype)
