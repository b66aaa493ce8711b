"""A small transformer for images, a token a patch ("Scalable Diffusion Models with Transformers", arXiv 2212.09748)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import Condition, zero


class Block(nn.Module):
    """Attention and a perceptron; the condition shifts and scales what enters, and scales what is added."""

    def __init__(self, size: int, heads: int, condition: int) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.changes = zero(nn.Linear(condition, 6 * size))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.changes(condition)[:, None].chunk(6, -1)
        h = functional.layer_norm(x, (self.size,)) * (1 + scale1) + shift1
        parts = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts.unbind(0))
        x = x + gate1 * self.out(seen.transpose(1, 2).flatten(2))
        h = functional.layer_norm(x, (self.size,)) * (1 + scale2) + shift2
        return x + gate2 * self.narrow(functional.gelu(self.wide(h), approximate="tanh"))


class Transformer(nn.Module):
    """F for square images: patches of ``patch`` pixels a side are the tokens.

    Args:
        channels: Of the images.
        side: Of the images.
        classes: Number of labels, without the one for "any".
        patch: Side of a patch.
        size: Numbers a token.
        depth: Number of blocks.
        heads: Of the attention.
        condition: Size of the embedding of level and label.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        classes: int,
        patch: int = 4,
        size: int = 96,
        depth: int = 4,
        heads: int = 4,
        condition: int = 96,
    ) -> None:
        super().__init__()
        self.size, self.patch = size, patch
        self.condition = Condition(condition, classes)
        self.enter = nn.Conv2d(channels, size, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, size))
        self.blocks = nn.ModuleList(Block(size, heads, condition) for _ in range(depth))
        self.changes = zero(nn.Linear(condition, 2 * size))
        self.leave = zero(nn.Linear(size, channels * patch * patch))

    def forward(self, y: Tensor, level: Tensor, label: Tensor) -> Tensor:
        c = self.condition(level, label)
        h = self.enter(y).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.changes(c)[:, None].chunk(2, -1)
        h = self.leave(functional.layer_norm(h, (self.size,)) * (1 + scale) + shift)
        h = h.transpose(1, 2).unflatten(2, (y.shape[2] // self.patch, y.shape[3] // self.patch))
        return functional.pixel_shuffle(h, self.patch)
