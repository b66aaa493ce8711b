"""Bounds on the error of Parareal against the serial solution; all solve one recursion in two numbers.

With alpha a Lipschitz constant of F - G and beta one of G, the errors obey e_{n+1}^{k+1} <= alpha e_n^k + beta
e_n^{k+1} and e_0^k = 0. For u' = lambda u these are alpha = |R_F - R_G| and beta = |R_G|; for a linear system with a
full set of eigenvectors that both propagators share, the bounds hold in each of them.

Every function takes numbers, or arrays that broadcast, and gives a float or a float64 array.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from parareal._core.checks import check_count

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def convergence_factor(alpha: Any, beta: Any) -> Any:
    """By how much an iteration shrinks the error on an interval without end: alpha / (1 - beta).

    Args:
        alpha: |R_F - R_G|, or a Lipschitz constant of F - G.
        beta: |R_G|, or a Lipschitz constant of G.

    Returns:
        The factor; infinite where ``beta`` is 1 or more. Below 1, Parareal converges however many slices there are.

    Raises:
        ValueError: A number is negative or NaN.

    Source:
        M. J. Gander, S. Vandewalle, Analysis of the Parareal Time-Parallel Time-Integration Method, SIAM J. Sci.
        Comput. 29 (2007).

    Examples:
        >>> convergence_factor(0.25, 0.5)
        0.5
    """
    alpha, beta = _numbers(alpha=alpha, beta=beta)
    below = beta < 1
    return _plain(np.where(below, alpha / np.where(below, 1 - beta, 1.0), np.where(alpha == 0, 0.0, np.inf)))


def linear_bound(alpha: Any, beta: Any, iterations: int, *, slices: int | None = None, initial: Any = 1.0) -> Any:
    """The linear bound: the norm of one iteration, to the power k.

    On an interval without end that is `convergence_factor` to the power k; on N slices the factor is
    alpha (1 + beta + ... + beta^(N-2)), for any beta.

    Args:
        alpha: |R_F - R_G|, or a Lipschitz constant of F - G.
        beta: |R_G|, or a Lipschitz constant of G.
        iterations: k.
        slices: N; ``None`` for any number of slices.
        initial: Largest error of the first iterates.

    Returns:
        A bound on the largest error after k iterations.

    Raises:
        ValueError: A number is negative or NaN.

    Source:
        M. J. Gander, S. Vandewalle, SIAM J. Sci. Comput. 29 (2007): the bound on powers of the iteration matrix, and
        the theorem on unbounded intervals.

    Examples:
        >>> round(linear_bound(0.05, 0.5, 2), 6)
        0.01
    """
    alpha, beta, initial = _numbers(alpha=alpha, beta=beta, initial=initial)
    _check(slices, iterations)
    if slices is None:
        factor = np.asarray(convergence_factor(alpha, beta))
    else:
        factor = _exp(_log(alpha) + _log_sum(beta, slices - 1, 1))
    return _plain(_times(initial, _exp(_power(factor, iterations))))


def superlinear_bound(alpha: Any, beta: Any, iterations: int, *, slices: int, initial: Any = 1.0) -> Any:
    """The superlinear bound on a bounded interval: alpha^k (N - 1 choose k) max(1, beta)^(N - k - 1).

    Args:
        alpha: |R_F - R_G|, or a Lipschitz constant of F - G.
        beta: |R_G|, or a Lipschitz constant of G.
        iterations: k.
        slices: N, or the number of a slice boundary, for a bound on the errors up to there.
        initial: Largest error of the first iterates.

    Returns:
        A bound on the largest error after k iterations.

    Raises:
        ValueError: A number is negative or NaN.

    Source:
        M. J. Gander, S. Vandewalle, SIAM J. Sci. Comput. 29 (2007), the theorem on bounded intervals: it has
        |F - G|^k / k! times (N - 1) ... (N - k).

    Examples:
        >>> round(superlinear_bound(0.1, 0.5, 2, slices=5), 6)
        0.06
    """
    alpha, beta, initial = _numbers(alpha=alpha, beta=beta, initial=initial)
    _check(slices, iterations)
    return _plain(_times(initial, _superlinear(alpha, beta, iterations, slices - 1, iterations)))


def nonlinear_bound(alpha: Any, beta: Any, gamma: Any, iterations: int, *, slices: int) -> Any:
    """The bound for nonlinear problems: gamma alpha^k max(1, beta)^(N - k - 1) (N choose k + 1).

    In the paper, with slices of length h and a coarse method of order p, alpha = C1 h^(p+1), beta = 1 + C2 h and
    gamma = C3 h^(p+1). First iterates are those of the coarse propagator.

    Args:
        alpha: A Lipschitz constant of F - G.
        beta: A Lipschitz constant of G.
        gamma: Largest |F - G| on the serial solution, slice by slice.
        iterations: k.
        slices: N, or the number of a slice boundary, for a bound on the errors up to there.

    Returns:
        A bound on the largest error after k iterations. Zero from k = N on.

    Raises:
        ValueError: A number is negative or NaN.

    Source:
        M. J. Gander, E. Hairer, Nonlinear Convergence Analysis for the Parareal Algorithm, Domain Decomposition Methods
        in Science and Engineering XVII (Springer, 2008).

    Examples:
        >>> round(nonlinear_bound(0.01, 1.0, 0.02, 1, slices=4), 6)
        0.0012
    """
    alpha, beta, gamma = _numbers(alpha=alpha, beta=beta, gamma=gamma)
    _check(slices, iterations)
    return _plain(_times(gamma, _superlinear(alpha, beta, iterations, slices, iterations + 1)))


def generating_function_bound(
    alpha: Any, beta: Any, iterations: int, *, slices: int, initial: Any = None, gamma: Any = None
) -> Any:
    """The sharpest bound in these numbers: the recursion's own solution.

    From first iterates of error ``initial`` it is alpha^k times the sum of (i + k - 1 choose i) beta^i over i from 0 to
    N - 1 - k. From those of the coarse propagator, which misses the serial solution by ``gamma`` in a slice, it is
    gamma alpha^k times the sum of (i + k choose i) beta^i. Never above the bounds `superlinear_bound` and
    `nonlinear_bound`, nor above `linear_bound` with ``slices``. It is the error itself where F - G and G are positive
    numbers and the first iterates have just these errors.

    Args:
        alpha: |R_F - R_G|, or a Lipschitz constant of F - G.
        beta: |R_G|, or a Lipschitz constant of G.
        iterations: k.
        slices: N, or the number of a slice boundary, for a bound on the errors up to there.
        initial: Largest error of the first iterates; 1 where ``gamma`` is not given either.
        gamma: Largest |F - G| on the serial solution, slice by slice.

    Returns:
        A bound on the largest error after k iterations. Zero from k = N on.

    Raises:
        ValueError: A number is negative or NaN, or both ``initial`` and ``gamma`` are given.

    Source:
        M. J. Gander, T. Lunet, D. Ruprecht, R. Speck, A Unified Analysis Framework for Iterative Parallel-in-Time
        Algorithms (arXiv 2203.16069).

    Examples:
        >>> round(generating_function_bound(0.1, 0.5, 2, slices=5), 6)
        0.0275
    """
    if initial is not None and gamma is not None:
        raise ValueError(f"initial={initial!r} and gamma={gamma!r} both set the first iterates; expected one of them")
    alpha, beta = _numbers(alpha=alpha, beta=beta)
    _check(slices, iterations)
    if gamma is None:
        (start,) = _numbers(initial=1.0 if initial is None else initial)
        if iterations == 0:
            return _plain(start * np.ones_like(alpha * beta))
        log = _log_sum(beta, slices - iterations, iterations)
    else:
        (start,) = _numbers(gamma=gamma)
        log = _log_sum(beta, slices - iterations, iterations + 1)
    return _plain(_times(start, _exp(_power(alpha, iterations) + log)))


def dahlquist_error(fine: Any, coarse: Any, iterations: int, *, slices: int, guess: Any = None) -> Any:
    """The error itself for u' = lambda u, u(0) = 1: serial solution minus iterate k, at every slice boundary.

    With F and G the two stability functions' values it is the sum of (n choose j) (F - G)^j G^(n - j) over j above k,
    from first iterates of the coarse propagator. Formed by the recursion, which loses no digits where F > G > 0.

    Args:
        fine: F, a real or complex number or array.
        coarse: G.
        iterations: k.
        slices: N.
        guess: The factor of the first iterates from boundary to boundary; ``None`` for G. It is 1 where they repeat
            the state, as with `Zero` and with ``Windowed(width, initial="hold")``.

    Returns:
        Errors at slice boundaries 0 ... N, shape ``(N + 1, *shape)``, float64 or complex128.

    Raises:
        ValueError: A count is out of range.

    Source:
        M. J. Gander, T. Lunet, D. Ruprecht, R. Speck (arXiv 2203.16069), whose generating functions give it; the
        binomial form follows from U_n^k = sum of (n choose j) (F - G)^j G^(n - j) over j up to k.

    Examples:
        >>> dahlquist_error(0.75, 0.5, 1, slices=3)
        array([0.      , 0.      , 0.0625  , 0.109375])
    """
    _check(slices, iterations)
    guess = coarse if guess is None else guess
    fine, coarse, guess = np.broadcast_arrays(np.asarray(fine), np.asarray(coarse), np.asarray(guess))
    kind = np.result_type(fine, coarse, guess, np.float64)
    error = np.zeros((slices + 1, *fine.shape), dtype=kind)
    serial = np.ones_like(error[0])
    for n in range(slices):
        error[n + 1] = guess * error[n] + (fine - guess) * serial
        serial = fine * serial
    for _ in range(iterations):
        before, error = error, np.zeros_like(error)
        for n in range(slices):
            error[n + 1] = coarse * error[n] + (fine - coarse) * before[n]
    return error


# --- logarithms, since binomials overflow long before bounds do ------------------------------------------------------


def _superlinear(alpha: Floats, beta: Floats, power: int, n: int, k: int) -> Floats:
    """alpha^power (n choose k) max(1, beta)^(n - k)."""
    if k > n:
        return np.zeros_like(alpha * beta)
    return _exp(_power(alpha, power) + math.log(math.comb(n, k)) + (n - k) * _log(np.maximum(1, beta)))


def _log_sum(beta: Floats, terms: int, k: int) -> Floats:
    """The logarithm of the sum of (i + k - 1 choose i) beta^i over that many i, from 0 on."""
    if terms < 1:
        return np.full_like(beta, -np.inf)
    i = np.arange(1, terms, dtype=np.float64)
    binomials = np.concatenate([[0.0], np.cumsum(np.log((i + k - 1) / i))])
    logs = np.zeros((terms, *beta.shape)) + binomials.reshape(-1, *[1] * beta.ndim)
    logs[1:] += np.multiply.outer(i, _log(beta))
    most = logs.max(axis=0)
    return most + np.log(np.exp(logs - most).sum(axis=0))


def _power(x: Floats, k: int) -> Floats:
    return k * _log(x) if k else np.zeros_like(x)


def _log(x: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(x)


def _exp(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.exp(x)


def _times(start: Floats, factor: Floats) -> Floats:
    """Their product, and zero where one of the two is zero, even if the other is infinite."""
    with np.errstate(invalid="ignore"):
        return np.where((start == 0) | (factor == 0), 0.0, start * factor)


def _numbers(**values: Any) -> list[Floats]:
    arrays = [np.asarray(value, dtype=np.float64) for value in values.values()]
    for name, array in zip(values, arrays, strict=True):
        if not (array >= 0).all():
            raise ValueError(f"{name}={values[name]!r} is negative or NaN; expected numbers that are not below 0")
    return arrays


def _check(slices: int | None, iterations: int) -> None:
    if slices is not None:
        check_count(slices, "slices")
    check_count(iterations, "iterations", 0)


def _plain(value: Any) -> Any:
    value = np.where(np.isnan(value), np.inf, value)  # from infinite numbers, as at a pole: there is no bound
    return value if np.ndim(value) else float(value)
