"""A small table: rows of named numbers, without pandas, and a pandas frame where that is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parareal.plot._study import study as draw_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Study(Sequence[dict[str, Any]]):
    """The outcome of `study`: a row for each run and iteration, a `dict` of its columns.

    Attributes:
        rows: The rows, all with the same columns.
    """

    rows: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        return Study(self.rows[i]) if isinstance(i, slice) else self.rows[i]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.rows[0]) if self.rows else []

    def where(self, **values: Any) -> Study:
        """The rows whose columns have these values.

        Raises:
            ValueError: There is no column of that name.
        """
        self._check(*values)
        return Study(tuple(row for row in self.rows if all(row[name] == one for name, one in values.items())))

    def last(self) -> Study:
        """The last row of each run."""
        return Study(tuple({row["run"]: row for row in self.rows}.values()))

    def first(self, below: float) -> Study:
        """The first row of each run whose error is at most ``below``; none for runs that never get there."""
        rows = [row for row in self.rows if row["error"] <= below]
        return Study(tuple({row["run"]: row for row in reversed(rows)}.values())[::-1])

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns by name."""
        return {name: [row[name] for row in self.rows] for name in self.columns}

    def to_frame(self) -> Any:
        """A pandas frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore
        except ImportError as error:
            raise ImportError(
                "study.to_frame() needs pandas: pip install 'torch-parareal[tables]', or take study.to_dict()"
            ) from error
        return pandas.DataFrame(self.to_dict())

    to_pandas = to_frame

    def plot(self, *, bounds: bool | Sequence[str] = True, ax: Axes | None = None) -> Axes:
        """Errors against iterations, a line for each run, with its bounds; see `parareal.plot.study`."""
        return draw_study(self.rows, bounds=bounds, ax=ax)

    def _check(self, *names: str) -> None:
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            raise ValueError(f"column {unknown[0]!r} is unknown; expected one of {', '.join(map(repr, self.columns))}")

    def __repr__(self) -> str:
        return f"Study({len(self.last().rows)} runs, {len(self)} rows: {', '.join(self.columns)})"

    def __str__(self) -> str:
        """The last iteration of each run."""
        shown = ("run", "iteration", "rounds", "serial_rounds", "evaluations", "error", "bound_generating")
        lines = [[name for name in shown]]
        lines += [[_short(row[name]) for name in shown] for row in self.last()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(shown))]
        return "\n".join(
            "  ".join(
                one.ljust(w) if i == 0 else one.rjust(w) for i, (one, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


def _short(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)
