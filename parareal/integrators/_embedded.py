"""Embedded Runge-Kutta methods: a table that steps, one that estimates its error, and one for the middle of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parareal.integrators._tableau import ButcherTableau


@dataclass(frozen=True)
class EmbeddedTableau:
    """An embedded method: a step, an estimate of its error, and the state in its middle.

    The last stage lies at the end of the step. Its slope is the first of the next step, as in torchdiffeq: it is the
    slope at the new state itself for dopri5, dopri8, bosh3 and tsit5, and at a prediction of it for the others.

    Attributes:
        step: The method, with a weight for each stage.
        error: Weights of the stages in the difference from the second method.
        middle: Weights of the stages in the state at half a step, over which the interpolant is a quartic.
        order: The power of the step size that its control assumes the error to have.
    """

    step: ButcherTableau
    error: tuple[float, ...]
    middle: tuple[float, ...]
    order: int

    @property
    def ends_in_last_stage(self) -> bool:
        """Whether the last stage is evaluated at the new state."""
        return self.step.b[-1] == 0 and self.step.a[-1] == self.step.b[:-1]


def _table(
    rows: Sequence[Sequence[float]],
    b: Sequence[float],
    other: Sequence[float],
    middle: Sequence[float],
    order: int,
    nodes: Sequence[float] | None = None,
) -> EmbeddedTableau:
    """A table from its rows, the weights of both methods and those of the middle."""
    a = ((), *(tuple(row) for row in rows))
    error = tuple(x - y for x, y in zip(b, other, strict=True))
    c = None if nodes is None else (0.0, *nodes)
    return EmbeddedTableau(ButcherTableau(a, tuple(b), c, order), error, tuple(middle), order)


_DOPRI5_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
_DOPRI5 = _table(
    rows=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DOPRI5_B[:-1],
    ),
    b=_DOPRI5_B,
    # Shampine's weights of order 4, not those of Dormand and Prince.
    other=(1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60),
    middle=(
        6025192743 / 30085553152 / 2,
        0.0,
        51252292925 / 65400821598 / 2,
        -2691868925 / 45128329728 / 2,
        187940372067 / 1594534317056 / 2,
        -1776094331 / 19743644256 / 2,
        11237099 / 235043384 / 2,
    ),
    order=5,
    nodes=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
)

_BOSH3 = _table(
    rows=((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    other=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
    middle=(0.0, 0.5, 0.0, 0.0),
    order=3,
    nodes=(1 / 2, 3 / 4, 1.0),
)

_FEHLBERG2 = _table(
    rows=((1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    other=(1 / 256, 255 / 256, 0.0),
    middle=(0.0, 0.5, 0.0),
    order=2,
    nodes=(1 / 2, 1.0),
)

_HEUN = _table(rows=((1.0,),), b=(0.5, 0.5), other=(0.0, 1.0), middle=(0.5, 0.0), order=2)

_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
)
_TSIT5_ERROR = (
    -0.00178001105222577714,
    -0.0008164344596567469,
    0.007880878010261995,
    -0.1447110071732629,
    0.5823571654525552,
    -0.45808210592918697,
    1 / 66,
)
_TSIT5 = _table(
    rows=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        _TSIT5_B[:-1],
    ),
    b=_TSIT5_B,
    other=tuple(b + e for b, e in zip(_TSIT5_B, _TSIT5_ERROR, strict=True)),
    middle=(  # the paper's interpolant of order 4 at half a step
        -1.0530884977290216 * 0.5 * (0.5 - 1.3299890189751412) * (0.25 - 0.5 * 1.4364028541716351 + 0.7139816917074209),
        0.1017 * 0.25 * (0.25 - 0.5 * 2.1966568338249754 + 1.2949852507374631),
        2.490627285651252793 * 0.25 * (0.25 - 0.5 * 2.38535645472061657 + 1.57803468208092486),
        -16.54810288924490272 * 0.25 * (0.5 - 1.21712927295533244) * (0.5 - 0.61620406037800089),
        47.37952196281928122 * 0.25 * (0.5 - 1.203071208372362603) * (0.5 - 0.658047292653547382),
        -34.87065786149660974 * 0.25 * (0.5 - 1.2) * (0.5 - 2 / 3),
        2.5 * 0.25 * (0.5 - 1.0) * (0.5 - 0.6),
    ),
    order=5,
    nodes=(0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
)

_DOPRI8_B = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
    0.0,
)
_DOPRI8 = _table(
    rows=(
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
        (
            *(16016141 / 946692911, 0.0, 0.0, 61564180 / 158732637, 22789713 / 633445777, 545815736 / 2771057229),
            -180193667 / 1043307555,
        ),
        (
            *(39632708 / 573591083, 0.0, 0.0, -433636366 / 683701615, -421739975 / 2616292301, 100302831 / 723423059),
            *(790204164 / 839813087, 800635310 / 3783071287),
        ),
        (
            *(246121993 / 1340847787, 0.0, 0.0, -37695042795 / 15268766246, -309121744 / 1061227803),
            *(-12992083 / 490766935, 6005943493 / 2108947869, 393006217 / 1396673457, 123872331 / 1001029789),
        ),
        (
            *(-1028468189 / 846180014, 0.0, 0.0, 8478235783 / 508512852, 1311729495 / 1432422823),
            *(-10304129995 / 1701304382, -48777925059 / 3047939560, 15336726248 / 1032824649),
            *(-45442868181 / 3398467696, 3065993473 / 597172653),
        ),
        (
            *(185892177 / 718116043, 0.0, 0.0, -3185094517 / 667107341, -477755414 / 1098053517),
            *(-703635378 / 230739211, 5731566787 / 1027545527, 5232866602 / 850066563, -4093664535 / 808688257),
            *(3962137247 / 1805957418, 65686358 / 487910083),
        ),
        (
            *(403863854 / 491063109, 0.0, 0.0, -5068492393 / 434740067, -411421997 / 543043805),
            *(652783627 / 914296604, 11173962825 / 925320556, -13158990841 / 6184727034, 3936647629 / 1978049680),
            *(-160528059 / 685178525, 248638103 / 1413531060, 0.0),
        ),
        _DOPRI8_B[:-1],
    ),
    b=_DOPRI8_B,
    other=(
        *(13451932 / 455176623, 0.0, 0.0, 0.0, 0.0, -808719846 / 976000145, 1757004468 / 5645159321),
        *(656045339 / 265891186, -3867574721 / 1518517206, 465885868 / 322736535, 53011238 / 667516719, 2 / 45),
        *(0.0, 0.0),
    ),
    # A continuous extension of order 6, at half a step.
    middle=(
        *(0.04103130360739393, 0.0, 0.0, 0.0, 0.0, 0.05100562801991382, 0.2388930677412202, 0.3096870143996103),
        *(-0.2172325471755352, 0.07833405679331928, -0.0018614369715579948, 0.007072844202678841),
        *(0.00690847373200576, -0.013838404349047373),
    ),
    order=8,
    nodes=(
        *(1 / 18, 1 / 12, 1 / 8, 5 / 16, 3 / 8, 59 / 400, 93 / 200, 5490023248 / 9719169821, 13 / 20),
        *(1201146811 / 1299019798, 1.0, 1.0, 1.0),
    ),
)

EMBEDDED = {
    "dopri5": _DOPRI5,
    "tsit5": _TSIT5,
    "bosh3": _BOSH3,
    "fehlberg2": _FEHLBERG2,
    "adaptive_heun": _HEUN,
    "dopri8": _DOPRI8,
}
"""The embedded methods by name.

Source:
    J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6 (1980), and P. J. Prince, J. R. Dormand, ibid. 7 (1981);
    L. F. Shampine, Some practical Runge-Kutta formulas, Math. Comp. 46 (1986); P. Bogacki, L. F. Shampine, Appl. Math.
    Lett. 2 (1989); E. Fehlberg, NASA TR R-315 (1969); C. Tsitouras, Comput. Math. Appl. 62 (2011). Which of their
    formulas estimate the error and interpolate is torchdiffeq's choice.
"""
