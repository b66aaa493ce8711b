"""A path of noise is a function of the interval asked about: known answers, laws, and the statistics it promises."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from strategies import distance, equal, make_state
from torch import Tensor

import parareal as pr
import parareal.problem._noise_path
from parareal._core.philox import WORD, normals, philox

EPS = float(torch.finfo(torch.float64).eps)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- the generator ---------------------------------------------------------------------------------------------------

CONSTANTS = {  # multipliers and Weyl increments, by bits of a word
    32: (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85),
    64: (0xD2E7470EE14C6C93, 0xCA5A826395121157, 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B),
}


def plain_philox(counter: list[int], key: list[int], bits: int) -> list[int]:
    """Philox4x32-10 or 4x64-10 in Python's own integers, which share nothing with tensors."""
    m0, m1, w0, w1 = CONSTANTS[bits]
    mask = (1 << bits) - 1
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        p, q = m0 * a, m1 * c
        a, b, c, d = (q >> bits) ^ b ^ k0, q & mask, (p >> bits) ^ d ^ k1, p & mask
        k0, k1 = (k0 + w0) & mask, (k1 + w1) & mask
    return [a, b, c, d]


def tensor_philox(counter: list[int], key: list[int]) -> list[int]:
    words = philox(tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key))  # type: ignore[arg-type]
    return [int(word) for word in words]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, expected)]
    assert tensor_philox(words[0], words[1]) == words[2]


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6))
def test_the_generator_is_philox(words: list[int]) -> None:
    """The plain one is numpy's, at 64 bits; ours is the plain one at 32."""
    counter, key = words[:4], words[4:]
    theirs = np.random.Philox(counter=sum(c << 64 * i for i, c in enumerate(counter)), key=key[0] + (key[1] << 64))
    following = [(sum(c << 64 * i for i, c in enumerate(counter)) + 1 >> 64 * i) & (1 << 64) - 1 for i in range(4)]
    assert theirs.random_raw(4).tolist() == plain_philox(following, key, 64)  # numpy counts before it draws
    short = [word & WORD for word in words]
    assert tensor_philox(short[:4], short[4:]) == plain_philox(short[:4], short[4:], 32)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, WORD), st.integers(0, 1 << 20), st.integers(0, 9))
def test_normals_are_the_inverse_distribution_function_of_its_words(
    seed: int, sample: int, atom: int, element: int
) -> None:
    """The key is the seed; the counter is block, atom, stream and sample; two words are one normal."""
    keys = torch.tensor([[seed & WORD, seed >> 32, sample]])
    ours = normals(keys, torch.tensor([[atom]]), 10, stream=1)[0, 0, element]
    words = plain_philox([element // 2, atom, 1, sample], [seed & WORD, seed >> 32], 32)
    high, low = words[2 * (element % 2) :][:2]
    probability = (((high & 0x7FFFFFFF) << 21 | low >> 11) + 0.5) / 2**53
    expected = special.ndtri(probability) * (-1 if high >> 31 else 1)
    assert float(ours) == pytest.approx(expected, rel=64 * EPS, abs=4 * EPS)


def draws(stream: int = 0, samples: int = 8, atoms: int = 32, elements: int = 512) -> Tensor:
    """Normals ``(atoms, samples, elements)`` of one seed."""
    keys = pr.BrownianPath(times(0.0, 1.0), seed=2**40 + 11).keys(samples)
    return normals(keys, torch.arange(atoms).unsqueeze(1).expand(-1, samples), elements, stream)


def assert_standard_normal(x: Tensor) -> None:
    """Mean, variance, skewness and kurtosis within 4 standard deviations, and a Kolmogorov-Smirnov test."""
    x, n = x.flatten(), x.numel()
    assert abs(float(x.mean())) <= 4 / sqrt(n)
    assert abs(float((x**2).mean()) - 1) <= 4 * sqrt(2 / n)
    assert abs(float((x**3).mean())) <= 4 * sqrt(15 / n)
    assert abs(float((x**4).mean()) - 3) <= 4 * sqrt(96 / n)
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3


def test_normals_are_normal() -> None:
    assert_standard_normal(draws())
    assert float(draws().abs().max()) > 4.0  # of 131072: fewer in a world of 1e-4


@pytest.mark.parametrize("of", ["atoms", "samples", "elements", "pairs", "streams", "seeds"])
def test_normals_are_independent(of: str) -> None:
    """What lies side by side in any direction is uncorrelated, and so are the squares."""
    x = draws()
    pairs = {
        "atoms": (x[1:], x[:-1]),
        "samples": (x[:, 1:], x[:, :-1]),
        "elements": (x[..., 2:], x[..., :-2]),
        "pairs": (x[..., ::2], x[..., 1::2]),
        "streams": (x, draws(1)),
        "seeds": (x[:, 0], normals(torch.tensor([[12, 1 << 8, 0]]), torch.arange(32).unsqueeze(1), 512, 0)[:, 0]),
    }
    a, b = pairs[of]
    for left, right, variance in ((a, b, 1), (a**2 - 1, b**2 - 1, 4)):
        assert abs(float((left * right).mean())) <= 4 * sqrt(variance**2 / a.numel())


# --- laws of a path --------------------------------------------------------------------------------------------------


@st.composite
def brownian_paths(draw: st.DrawFn) -> pr.BrownianPath:
    widths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    points = torch.cumsum(times(0, *widths), 0) * draw(st.sampled_from((0.125, -0.125))) + draw(st.integers(-1, 1))
    return pr.BrownianPath(points, seed=draw(st.integers(0, 2**64 - 1)))


def inside(path: pr.NoisePath, *where: float) -> Tensor:
    """Times at fractions of a path, in order."""
    first, last = path.points[0], path.points[-1]
    return first + (last - first) * times(*sorted(where))


fractions = st.one_of(st.floats(0.0, 1.0), st.sampled_from((0.0, 0.25, 0.5, 1.0)))


@given(brownian_paths(), fractions, fractions, fractions, st.integers(1, 3))
def test_increments_and_areas_add_up_over_any_split(
    path: pr.BrownianPath, a: float, b: float, c: float, size: int
) -> None:
    t0, t, t1 = inside(path, a, b, c).unsqueeze(1)
    like = torch.zeros(1, size, dtype=torch.float64)
    (w, z), (left, before), (right, after) = (
        path.increments(*ends, like, area=True) for ends in ((t0, t1), (t0, t), (t, t1))
    )
    # A hundred atoms of a few units at most, each rounded in a handful of operations.
    assert distance(left + right, w) <= 1e3 * EPS
    assert distance(before + after + left * (t1 - t), z) <= 1e4 * EPS


@given(brownian_paths(), st.lists(st.tuples(fractions, fractions), min_size=1, max_size=6), st.integers(0, 5))
def test_a_lane_does_not_see_its_neighbours_nor_their_order(
    path: pr.BrownianPath, ends: list[tuple[float, float]], seed: int
) -> None:
    t0, t1 = torch.stack([inside(path, *pair) for pair in ends], 1)
    keys = path.keys(len(ends))
    like = make_state("nested", torch.float64, 0, batch=(len(ends),))
    together = path.increments(t0, t1, like, keys, area=True)
    order = torch.randperm(len(ends), generator=torch.Generator().manual_seed(seed))
    shuffled = path.increments(t0[order], t1[order], like, keys[order], area=True, most=len(path.points) + 3)
    for i, at in enumerate(order.tolist()):
        lane = torch.utils._pytree.tree_map(lambda leaf: leaf[at : at + 1], (t0, t1, like, keys))  # noqa: B023
        alone = path.increments(*lane, area=True)
        one = torch.utils._pytree.tree_map(lambda leaf: leaf[at : at + 1], together)  # noqa: B023
        assert equal(alone, one)
        assert equal(torch.utils._pytree.tree_map(lambda leaf: leaf[i : i + 1], shuffled), one)  # noqa: B023


@given(brownian_paths(), fractions, fractions, st.sampled_from((1, 4, 9)))
def test_how_many_are_drawn_at_a_time_changes_nothing(path: pr.BrownianPath, a: float, b: float, budget: int) -> None:
    t0, t1 = inside(path, a, b).unsqueeze(1)
    like = torch.zeros(1, 3, dtype=torch.float64)
    usual = path.increments(t0, t1, like, area=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parareal.problem._noise_path, "_BUDGET", budget)
        assert equal(path.increments(t0, t1, like, area=True), usual)


@given(brownian_paths())
def test_a_step_over_many_atoms_is_their_sum(path: pr.BrownianPath) -> None:
    atoms = path.increments(path.points[:-1], path.points[1:], torch.zeros(len(path.points) - 1, 2).double())
    total = torch.zeros(2, dtype=torch.float64)
    for atom in atoms:
        total = total + atom
    assert torch.equal(path.increments(path.points[:1], path.points[-1:], torch.zeros(1, 2).double())[0], total)


def test_a_nest_has_the_noise_of_one_flat_state_and_float32_that_of_float64() -> None:
    path, t0, t1 = pr.BrownianPath(times(0.0, 0.5, 1.0), seed=3), times(0.0, 0.5), times(0.5, 1.0)
    nest = make_state("nested", torch.float64, 0, batch=(2,))
    leaves = torch.utils._pytree.tree_leaves(path.increments(t0, t1, nest))
    flat = path.increments(t0, t1, torch.zeros(2, sum(leaf[0].numel() for leaf in leaves), dtype=torch.float64))
    assert torch.equal(torch.cat([leaf.reshape(2, -1) for leaf in leaves], 1), flat)
    assert torch.equal(path.increments(t0, t1, torch.zeros_like(flat).float()), flat.float())
    assert torch.equal(path.increments(t0, t1, torch.zeros_like(flat).to(torch.complex64)), flat.float())


def test_inside_of_an_atom_a_path_runs_straight() -> None:
    path, like = pr.BrownianPath(times(1.0, 0.0), seed=5), torch.zeros(1, 4, dtype=torch.float64)
    whole, area = path.increments(times(1.0), times(0.0), like, area=True)
    quarter, part = path.increments(times(0.5), times(0.25), like, area=True)
    assert distance(quarter, whole / 4) <= EPS
    # The straight part of the area and the even share of the rest.
    assert distance(part, -quarter / 8 + (area + whole / 2) / 4) <= 4 * EPS


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["rising", "falling"])
def test_joint_law_of_increment_and_area(sign: float) -> None:
    """Variances h, h^3 / 3 and covariance h^2 / 2, from one atom and from several."""
    for points in (times(0.0, 1.5), times(0.0, 0.1, 0.5, 0.6, 1.5)):
        path, h = pr.BrownianPath(sign * points, seed=8), 1.5
        like = torch.zeros(1, 100_000, dtype=torch.float64)
        w, z = path.increments(sign * times(0.0), sign * times(h), like, area=True)
        w, z = w[0], sign * z[0]
        assert_standard_normal(w / sqrt(h))
        assert_standard_normal(z / sqrt(h**3 / 3))
        correlation = float((w * z).mean()) / sqrt(h * h**3 / 3)
        assert abs(correlation - sqrt(3) / 2) <= 4 * sqrt((1 + 3 / 4) / w.numel())


def test_samples_have_paths_of_their_own() -> None:
    path, like = pr.BrownianPath(times(0.0, 1.0), seed=5), torch.zeros(3, 4, dtype=torch.float64)
    t0, t1 = times(0.0, 0.0, 0.0), times(1.0, 1.0, 1.0)
    three = path.increments(t0, t1, like, path.keys(3))
    assert len({tuple(row.tolist()) for row in three}) == 3
    assert torch.equal(path.increments(t0[:2], t1[:2], like[:2], path.keys(3)[1:]), three[1:])
    assert torch.equal(path.increments(t0[:1], t1[:1], like[:1]), three[:1])  # one system is like sample 0
    own = pr.BrownianPath(times(0.0, 1.0), seed=(7, 5, 2**63))
    mine = own.increments(t0, t1, like, own.keys(3))
    for i, seed in enumerate((7, 5, 2**63)):
        assert torch.equal(pr.BrownianPath(times(0.0, 1.0), seed).increments(t0[:1], t1[:1], like[:1]), mine[i : i + 1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_devices_agree() -> None:
    path = pr.BrownianPath(torch.linspace(1.0, 0.0, 33), seed=2**50 + 1)
    t0, t1 = path.points[[0, 4, 8]], path.points[[4, 8, 32]]
    like = torch.zeros(3, 1001, dtype=torch.float64)
    here = path.increments(t0, t1, like, path.keys(3), area=True)
    there = path.increments(t0.cuda(), t1.cuda(), like.cuda(), path.keys(3).cuda(), area=True, most=24)
    for a, b in zip(here, there, strict=True):
        assert distance(a, b.cpu()) <= 1e3 * EPS
    normal = path.normals(t0.cuda(), t1.cuda(), like.cuda(), path.keys(3).cuda(), most=24)
    assert distance(path.normals(t0, t1, like, path.keys(3)), normal.cpu()) <= 1e3 * EPS


# --- clocks ----------------------------------------------------------------------------------------------------------


@given(brownian_paths(), fractions, fractions)
def test_normals_are_increments_in_units_of_their_deviation(path: pr.BrownianPath, a: float, b: float) -> None:
    t0, t1 = inside(path, a, b)
    atoms = path.points[:-1], path.points[1:]
    like = torch.zeros(len(atoms[0]), 2, dtype=torch.float64)
    plain = path.normals(*atoms, like)
    assert equal(path.increments(*atoms, like), path.lengths.sqrt()[:, None] * plain)  # the very N_i
    sign, points = torch.sign(path.points[-1] - path.points[0]), path.points
    share = torch.stack(
        [(torch.minimum(sign * t1, sign * q) - torch.maximum(sign * t0, sign * p)) for p, q in zip(*atoms, strict=True)]
    ).clamp(min=0)
    if float(share.sum()) > 1e-6 and len(points) > 1:
        step = path.normals(t0[None], t1[None], like[:1])[0]
        assert distance(step, ((share / share.sum()).sqrt()[:, None] * plain).sum(0)) <= 1e6 * EPS


def test_a_clock_tells_the_variance() -> None:
    points = torch.linspace(1.0, 0.0, 5, dtype=torch.float64)
    plain, clocked = pr.BrownianPath(points, seed=4), pr.BrownianPath(points, seed=4, clock=lambda t: t**2 / (2 - t))
    variance = (points**2 / (2 - points)).diff().abs()
    like = torch.zeros(4, 6, dtype=torch.float64)
    unit = plain.increments(points[:-1], points[1:], like) * 2  # sqrt(1/4)
    assert distance(clocked.increments(points[:-1], points[1:], like), variance.sqrt()[:, None] * unit) <= 4 * EPS
    assert torch.equal(clocked.normals(points[:-1], points[1:], like), plain.normals(points[:-1], points[1:], like))
    whole = clocked.normals(points[:1], points[-1:], like[:1])[0]
    assert distance(whole, ((variance / variance.sum()).sqrt()[:, None] * unit).sum(0)) <= 16 * EPS


@pytest.mark.parametrize("falling", [False, True])
def test_normals_over_endless_atoms_are_finite(falling: bool) -> None:
    points = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    clock: Callable[[Tensor], Tensor] = lambda t: -torch.log1p(-t)  # noqa: E731 - infinite at 1
    path = pr.BrownianPath(points.flip(0) if falling else points, seed=4, clock=clock)
    ends = path.points[:-1], path.points[1:]
    unit = path.normals(*ends, torch.zeros(4, 6, dtype=torch.float64))
    assert_standard_normal(path.normals(*ends, torch.zeros(4, 10_000)).double())
    endless = 0 if falling else 3
    whole = path.normals(path.points[:1], path.points[-1:], torch.zeros(1, 6, dtype=torch.float64))
    assert torch.equal(whole[0], unit[endless])
    half = slice(2, None) if falling else slice(None, 3)
    finite = path.normals(path.points[half][:1], path.points[half][-1:], torch.zeros(1, 6, dtype=torch.float64))
    weights = (path.lengths[path.lengths.isfinite()][:2] if not falling else path.lengths[2:]).sqrt()
    rows = unit[:2] if not falling else unit[2:]
    assert distance(finite[0], (weights[:, None] * rows).sum(0) / weights.norm()) <= 16 * EPS
    both = pr.BrownianPath(times(-1.0, 0.0, 1.0), seed=1, clock=torch.atanh)
    two = both.normals(times(-1.0, 0.0), times(0.0, 1.0), torch.zeros(2, 3, dtype=torch.float64))
    across = both.normals(times(-1.0), times(1.0), torch.zeros(1, 3, dtype=torch.float64))
    assert distance(across[0], (two[0] + two[1]) / sqrt(2)) <= 4 * EPS


def test_normals_where_a_clock_stands_still() -> None:
    path = pr.BrownianPath(times(0.0, 1.0, 2.0), seed=1, clock=lambda t: t.clamp(max=1.0))
    like = torch.zeros(1, 3, dtype=torch.float64)
    assert bool((path.increments(times(1.0), times(2.0), like) == 0).all())
    assert torch.equal(
        path.normals(times(1.0), times(2.0), like),
        pr.BrownianPath(path.points, 1).normals(times(1.0), times(2.0), like),
    )


# --- frozen paths ----------------------------------------------------------------------------------------------------


def test_a_frozen_path_gives_what_it_was_given() -> None:
    points, dw, dz = times(1.0, 0.5, 0.0), times(1.0, -2.0), times(0.25, 0.5)
    path = pr.FrozenPath(points, dw, dz)
    t0, t1 = times(1.0, 0.5, 1.0, 0.75), times(0.5, 0.0, 0.0, 0.5)
    w, z = path.increments(t0, t1, torch.zeros(4, dtype=torch.float64), area=True)
    assert w.tolist() == [1.0, -2.0, -1.0, 0.5]
    assert z.tolist() == [0.25, 0.5, 0.25 + 0.5 - 0.5 * 1.0, -0.25 * 0.25 + 0.5 * (0.25 + 0.25)]


def test_a_frozen_path_for_each_sample_or_one_for_all() -> None:
    dw = torch.arange(12, dtype=torch.float64).reshape(2, 3, 2)
    own, shared = pr.FrozenPath(times(0, 1, 2), dw, samples=True), pr.FrozenPath(times(0, 1, 2), dw[:, 0])
    t0, t1, like = times(0, 0, 0), times(2, 2, 2), torch.zeros(3, 1, 2, dtype=torch.float64)
    assert torch.equal(own.increments(t0, t1, like, own.keys(3)), dw.sum(0).unsqueeze(1))
    assert torch.equal(shared.increments(t0, t1, like, shared.keys(3)), dw[:, :1].sum(0).expand(3, 1, 2))


# --- what is wrong is said -------------------------------------------------------------------------------------------

POINTS = torch.linspace(0.0, 1.0, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.BrownianPath([0.0, 1.0]), TypeError, ["points is a list"]),
        (lambda: pr.BrownianPath(times(0.0, 1.0, 0.5)), ValueError, ["points are not strictly monotone"]),
        (lambda: pr.BrownianPath(POINTS, seed=1.0), TypeError, ["seed=1.0", "float", "int"]),
        (lambda: pr.BrownianPath(POINTS, seed=True), TypeError, ["bool"]),
        (lambda: pr.BrownianPath(POINTS, seed=(1, -2)), ValueError, ["seed=-2", "2**64 - 1"]),
        (lambda: pr.BrownianPath(POINTS, seed=(1, 2)).keys(3), ValueError, ["2 seeds", "3 samples"]),
        (lambda: pr.BrownianPath(POINTS, seed=(1, 2)).keys(None), ValueError, ["2 seeds", "samples=True"]),
        (lambda: pr.BrownianPath(POINTS, clock=lambda t: t[:1]), ValueError, ["clock returned (1,)", "(3,)"]),
        (lambda: pr.BrownianPath(POINTS, clock=lambda t: t.float()), ValueError, ["float32", "float64"]),
        (lambda: pr.BrownianPath(POINTS, clock=lambda t: 1.0), ValueError, ["clock returned float"]),
        (lambda: pr.BrownianPath(POINTS, clock=lambda t: (t - 0.5) ** 2), ValueError, ["monotone"]),
        (lambda: pr.BrownianPath(POINTS, clock=lambda t: t / 0), ValueError, ["NaN"]),
        (lambda: pr.FrozenPath(POINTS, [1.0, 2.0]), TypeError, ["dw holds a float"]),
        (lambda: pr.FrozenPath(POINTS, torch.tensor([1, 2])), TypeError, ["dw holds a tensor of torch.int64"]),
        (lambda: pr.FrozenPath(POINTS, times(1.0)), ValueError, ["dw has shape (1,)", "(2, ...)", "3 points"]),
        (lambda: pr.FrozenPath(POINTS, times(1.0, 2.0), samples=True), ValueError, ["dw has shape (2,)", "samples"]),
        (lambda: pr.FrozenPath(POINTS, times(1.0, float("nan"))), ValueError, ["NaN"]),
        (lambda: pr.FrozenPath(POINTS, times(1, 2), torch.ones(2, 1)), ValueError, ["dz has other shapes"]),
        (lambda: pr.FrozenPath(POINTS, torch.ones(2, 4), samples=True).keys(3), ValueError, ["4 samples", "3 samples"]),
        (lambda: pr.FrozenPath(POINTS, torch.ones(2, 4), samples=True).keys(None), ValueError, ["one system"]),
    ],
)
def test_what_is_wrong_with_a_path_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("path", "ends", "options", "words"),
    [
        (pr.BrownianPath(POINTS), (0.0, 1.5), {}, ["from 0 ... 0 to 1.5 ... 1.5", "runs from 0 to 1"]),
        (pr.BrownianPath(POINTS), (-0.5, 1.0), {}, ["do not lie on the path"]),
        (pr.BrownianPath(POINTS), (1.0, 0.0), {}, ["in its direction"]),
        (pr.BrownianPath(POINTS.flip(0)), (0.0, 1.0), {}, ["runs from 1 to 0"]),
        (pr.BrownianPath(POINTS, clock=lambda t: 2 * t), (0.0, 1.0), {"area": True}, ["areas", "clock=None"]),
        (pr.FrozenPath(POINTS, torch.ones(2, 3)), (0.0, 1.0), {"area": True}, ["no areas", "dz"]),
        (pr.FrozenPath(POINTS, torch.ones(2, 2)), (0.0, 1.0), {}, ["shape (2,)", "noise of shape (3,)"]),
        (pr.FrozenPath(POINTS, (torch.ones(2, 3),) * 2), (0.0, 1.0), {}, ["(3,), (3,)", "noise of shape (3,)"]),
    ],
)
def test_what_is_wrong_with_a_step_is_said(
    path: pr.NoisePath, ends: tuple[float, float], options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        path.increments(times(ends[0]), times(ends[1]), torch.zeros(1, 3, dtype=torch.float64), **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
