"""`check_propagator`: whether a propagator is a function of (t0, t1, u) alone, at the right time, of the order it says.

This package stands above `solve`; nothing imports it but `parareal` itself.
"""
