"""The experiments of `benchmarks/srds.py`: those of the SRDS paper (arXiv 2412.08292), and those that it left open."""
