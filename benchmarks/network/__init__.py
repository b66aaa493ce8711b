"""Parts of `benchmarks/distributed.py`: what ranks cost here, and how long many of them would take elsewhere."""
