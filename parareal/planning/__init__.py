"""`plan`: what pays on this device, found by short trials.

This package stands above `solve`; nothing imports it but `parareal` itself.
"""
