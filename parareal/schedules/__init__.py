"""When: of the lanes whose input is known, a schedule says which start now.

It sees the progress of each slice (`Progress`), never a state. This package imports problems, grids and
`executors._base`.
"""
