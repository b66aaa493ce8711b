"""Studies: one problem solved in many ways, and what each iteration was worth, as a table.

Stands above everything else: it calls `serial`, `solve`, the bounds of ``theory`` and ``plot``.
"""
