"""Several processes: the lanes of a round split over them, or a block of slices for each.

Messages and process groups are here alone. This package imports the engine and executors.
"""
