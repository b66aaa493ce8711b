"""The time axis: `TimeGrid` has the fine points and says which are slice boundaries; spans and meshes are cut from it.

This package imports only `parareal._core`.
"""
