"""When: of the lanes whose input is known, a schedule says which start now.

It sees who stands where (`Progress`), never a state. This package imports problems, grids and `executors._base`.
"""
