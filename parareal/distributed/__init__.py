"""Several processes: the lanes of a round split over them, or a block of slices for each.

Only this package has messages and process groups. This package imports the engine and executors.
"""
