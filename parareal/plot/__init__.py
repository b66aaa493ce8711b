"""Plots of runs: increments and errors, timelines, speed-up, and work against precision.

Needs matplotlib (``pip install 'torch-parareal[plot]'``), which is loaded by the first call, not by the import. Every
function takes the `matplotlib.axes.Axes` to draw on as ``ax`` and returns it. Without ``ax`` it makes a figure through
pyplot. No function shows a window or changes global settings. Colours differ in greyscale as well.
"""

from parareal.plot._convergence import convergence
from parareal.plot._heat import errors, increments
from parareal.plot._precision import work_precision
from parareal.plot._speedup import speedup
from parareal.plot._study import study
from parareal.plot._timeline import timeline

__all__ = ["convergence", "errors", "increments", "speedup", "study", "timeline", "work_precision"]
