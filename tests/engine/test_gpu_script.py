"""`benchmarks/gpu.py` runs through on a CPU, so that it works at once where there is a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import gpu_networks


def test_the_tiny_run_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    limit = torch._dynamo.config.recompile_limit
    try:
        gpu.main(["--tiny"])
    finally:
        torch._dynamo.reset()
        torch._dynamo.config.recompile_limit = limit
    said = capsys.readouterr().out
    for words in ("U-Net: milliseconds", "DiT: milliseconds", "Engine", "Newton's scan", "Lorenz", "Picard, width 4"):
        assert words in said
    assert "compiled for 1 and 4 lanes" in said
    assert said.count("SRDS") == 3
    assert "Left out" not in said


def test_what_does_not_fit_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--tiny", "--minutes", "0"])
    said = capsys.readouterr().out
    assert "Left out" in said
    assert "serial" not in said.partition("Left out")[0].replace("serial  parallel", "")


def test_networks_have_the_size_of_the_originals() -> None:
    with torch.device("meta"):
        made = [gpu_networks.UNet(), gpu_networks.DiT()]
        x, t = torch.randn(2, 4, 64, 64), torch.rand(2)
        assert made[0](x, t).shape == x.shape
        assert made[1](x[..., :32, :32], t).shape == (2, 4, 32, 32)
    counts = [sum(p.numel() for p in network.parameters()) for network in made]
    assert counts[0] == 859_520_964
    assert counts[1] + made[1].place.numel() == 675_129_632
