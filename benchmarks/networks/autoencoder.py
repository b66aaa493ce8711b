"""An autoencoder for spectrograms: 32 bands x 32 frames to a latent of 4 x 8 x 8 numbers, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Convolutions down to a quarter of the side and up again.

    The latents are brought to about unit variance by ``scale``, and a little noise is added to them in training, so
    that the decoder takes what lies near as the same sound.

    Args:
        channels: Of the hidden layers.
        latents: Channels of the latent.
    """

    scale: Tensor

    def __init__(self, channels: int = 32, latents: int = 4) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, latents, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latents, 2 * channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 1, 3, padding=1),
        )

    def encode(self, spectrogram: Tensor) -> Tensor:
        """Latents ``(B, 4, 8, 8)`` of spectrograms ``(B, 1, 32, 32)``."""
        return self.encoder(spectrogram) / self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Spectrograms of latents."""
        return self.decoder(latent * self.scale)
