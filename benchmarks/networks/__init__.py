"""Four small networks that were trained on real data, and measures of the quality of their samples; see README.md."""

from .load import NAMES, Network, load

__all__ = ["NAMES", "Network", "load"]
