"""Shared parts of all plots: axes, styles, and zeros on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parareal._core.checks import described

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
ZERO = "0, on the axis"


def axes(ax: Axes | None, width: float = 6.4, height: float = 4.0) -> Axes:
    """The axes given, or those of a new figure, whose size is in inches.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: ``ax`` is something else.
    """
    try:
        from matplotlib.axes import Axes
    except ImportError as error:
        raise ImportError("parareal.plot needs matplotlib: pip install 'torch-parareal[plot]'") from error
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax is {described(ax)}; expected matplotlib Axes, for example plt.subplots()[1]")
    return ax


def shade(i: int, count: int) -> Any:
    """Colour i of ``count``: viridis without its lightest end, which is hard to see on paper."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.85 * i / max(1, count - 1))


def log_line(ax: Axes, x: Any, y: Any, label: str, **style: Any) -> None:
    """A line on logarithmic axes; zeros become open marks at the lower end."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    shown = np.where(np.isfinite(y) & (y > 0), y, np.nan)
    ax.plot(x, shown, label=label, gid=label, **style)
    zero = y == 0
    if zero.any():
        mark: dict[str, Any] = {**style, "ls": "none", "mfc": "white", "marker": style.get("marker") or "o"}
        ax.plot(
            x[zero],
            np.full(zero.sum(), 0.02),
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            zorder=4,
            label="_zeros",
            gid=f"{label}: zeros",
            **mark,
        )


def legend(ax: Axes) -> None:
    """A legend to the right of the axes."""
    from matplotlib.lines import Line2D

    handles, labels = ax.get_legend_handles_labels()
    if any(str(line.get_gid()).endswith(": zeros") for line in ax.lines):
        handles.append(Line2D([], [], ls="none", marker="o", mfc="white", mec="0.2"))
        labels.append(ZERO)
    ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")


def whole_numbers(*sides: Any) -> None:
    """Ticks at integers alone, on an ``ax.xaxis`` or ``ax.yaxis``."""
    from matplotlib.ticker import MaxNLocator

    for side in sides:
        side.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def log_ticks(side: Any, values: Any) -> None:
    """Ticks of a logarithmic ``ax.xaxis`` or ``ax.yaxis`` that hold such values, also where they span little."""
    from matplotlib.ticker import LogLocator, NullFormatter

    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    side.set_minor_formatter(NullFormatter())
    if len(values) and values.max() < 100 * values.min():
        side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        side.set_major_formatter("{x:g}")


def named(value: Any, name: str, example: str) -> dict[str, Any]:
    """A mapping from names to what is drawn under them.

    Raises:
        TypeError: It is not a mapping.
        ValueError: It is empty.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {described(value)}; expected a mapping from names, for example {example}")
    if not value:
        raise ValueError(f"{name} is empty; expected something to draw, for example {example}")
    return {str(key): entry for key, entry in value.items()}
