"""Pictures of runs: what each iteration did, how the work was laid out, and what it brought.

Needs matplotlib (``pip install 'torch-parareal[plot]'``), which is loaded by the first call, not by the import. Every
function takes the `matplotlib.axes.Axes` to draw on as ``ax`` and returns it. Without ``ax`` it makes a figure through
pyplot. None shows a window or touches the global settings. Colours are told apart in greyscale as well.
"""

from parareal.plot._convergence import convergence
from parareal.plot._heat import errors, increments
from parareal.plot._precision import work_precision
from parareal.plot._speedup import speedup
from parareal.plot._timeline import timeline

__all__ = ["convergence", "errors", "increments", "speedup", "timeline", "work_precision"]
