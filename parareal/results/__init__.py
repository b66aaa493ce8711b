"""What a run returns: `Solution`, `Status`, the history, the record of all iterates, and snapshots, as plain data.

Each class packs itself; the file format (`_tensor_file`) depends on no class. This package lies below the engine.
"""
