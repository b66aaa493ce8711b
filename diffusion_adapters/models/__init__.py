"""A diffusion model: a network and what its output means; also two models that need no training.

This package imports noise schedules.
"""
