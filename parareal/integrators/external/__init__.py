"""Methods of other libraries as integrators: SciPy, torchdiffeq, torchode and torchsde.

Each imports its library when it is used.
"""
