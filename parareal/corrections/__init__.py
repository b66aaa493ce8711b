"""Approximations of F(new) - F(old): what tells Parareal, Picard, Newton and accelerated variants apart.

The engine asks a correction for differences and guesses and knows nothing else of it. This package imports problems,
grids and integrators, never the engine.
"""
