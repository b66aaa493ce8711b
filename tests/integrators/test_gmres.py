"""GMRES on lanes, against elimination."""

from __future__ import annotations

import torch
from torch import Tensor

from parareal.integrators._gmres import RESTART, gmres

EPS = float(torch.finfo(torch.float64).eps)


def systems(lanes: int, n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(lanes, n, n, generator=generator, dtype=torch.float64) / n**0.5
    hardness = torch.linspace(0.1, 0.9, lanes, dtype=torch.float64)[:, None, None]
    return torch.eye(n, dtype=torch.float64) + hardness * noise, torch.randn(
        lanes, n, generator=generator, dtype=torch.float64
    )


def run(M: Tensor, rhs: Tensor, rtol: float, most: int = 300) -> tuple[Tensor, Tensor, list[int]]:
    """The solution, products as they are counted, and products that were made."""
    made: list[int] = []

    def product(v: Tensor, lanes: Tensor | None) -> Tensor:
        made.append(len(v))
        return ((M if lanes is None else M[lanes]) @ v[..., None])[..., 0]

    x, products = gmres(product, rhs, rtol, most)
    return x, products, made


def test_solutions_over_many_restarts() -> None:
    M, rhs = systems(5, 2 * RESTART)
    x, products, made = run(M, rhs, 1e-12)
    residual = (M @ x[..., None])[..., 0] - rhs
    assert (residual.norm(dim=1) <= 1.01e-12 * rhs.norm(dim=1)).all()
    assert products.max() > RESTART
    assert len(set(products.tolist())) > 1
    assert sum(made) == int(products.sum())
    for lane in range(5):
        alone, count, _ = run(M[lane : lane + 1], rhs[lane : lane + 1], 1e-12)
        assert int(count) == int(products[lane])
        torch.testing.assert_close(alone[0], x[lane], rtol=0, atol=1e-11 * float(alone.abs().max()))


def test_small_systems_take_as_many_products_as_unknowns() -> None:
    M, rhs = systems(4, 6)
    x, products, _ = run(M, rhs, 1e-13)
    torch.testing.assert_close(x, torch.linalg.solve(M, rhs), rtol=0, atol=1e-12)
    assert (products <= 6).all()
    eye = torch.eye(6, dtype=torch.float64).expand(4, 6, 6)
    assert run(eye, rhs, 1e-13)[1].tolist() == [1, 1, 1, 1]


def test_what_cannot_be_solved_ends() -> None:
    M, rhs = systems(4, 8)
    rhs[0] = 0.0  # nothing to do
    rhs[1, 3] = float("nan")
    M[2] = 0.0  # singular
    x, products, _ = run(M, rhs, 1e-10, most=40)
    assert x[0].eq(0).all()
    assert products[0] == 0
    assert x[1].isnan().all()
    assert not torch.isfinite(x[2]).any()
    assert products[2] == 1
    torch.testing.assert_close(x[3], torch.linalg.solve(M[3], rhs[3]), rtol=0, atol=1e-8)
    assert products.max() <= 40 + RESTART + 1
