"""Samplers of others, written from their papers, to be counted beside this library: not part of the package."""
