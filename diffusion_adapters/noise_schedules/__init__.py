"""Noise schedules: alpha(t), sigma(t), the maps between time and noise level, and grids of times for sampling.

This package imports none of the others.
"""
