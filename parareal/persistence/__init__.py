"""Saving, checkpointing and resuming: a snapshot is taken out of an engine and put into a new one.

This package imports the engine and results.
"""
