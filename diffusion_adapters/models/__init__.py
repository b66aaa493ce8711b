"""A diffusion model: a network, what its output means, its conditioning; two models whose answers are known or in the package.

This package imports noise schedules.
"""
