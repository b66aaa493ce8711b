"""Calls of other libraries, solved in parallel in time: torchdiffeq's `odeint`.

This package stands above `solve`; nothing imports it but `parareal` itself.
"""
