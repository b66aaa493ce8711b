"""The progress bar, with tqdm loaded only when it is asked for."""

from __future__ import annotations

from typing import Any


class Bar:
    """A bar over slices known final; it shows iterations, rounds and the largest increment beside it.

    Args:
        show: Whether to show anything.
        slices: Number of slices.

    Raises:
        ImportError: A bar is wanted and tqdm is not installed.
    """

    def __init__(self, show: bool, slices: int) -> None:
        self._bar: Any = None
        if show:
            try:
                from tqdm.auto import tqdm  # pyright: ignore
            except ImportError as error:
                raise ImportError(
                    "progress=True needs tqdm: pip install 'torch-parareal[progress]', or pass progress=False"
                ) from error
            self._bar = tqdm(total=slices, unit="slice")

    def update(self, frontier: int, iteration: int, rounds: int, increment: float) -> None:
        """Shows where the run stands."""
        if self._bar is not None:
            self._bar.set_postfix(iteration=iteration, rounds=rounds, increment=f"{increment:.1e}", refresh=False)
            self._bar.update(frontier - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()
