"""Gradients of the sequential run by its discrete adjoint, whose recursion through the slices is solved in parallel.

The boundary states are all that a run keeps for it. The path of a gradient: `_attach` makes the states of a solution
differentiable, `_backward` does a backward pass, with `_recursion` for the states and `_slices` for one slice after
another. Only `solve` and the calls of other libraries (``compat``) import this folder.
"""
