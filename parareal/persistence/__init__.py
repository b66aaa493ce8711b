"""Saving, checkpointing and resuming: a snapshot is taken out of an engine and put into one that goes on.

This package imports the engine and results.
"""
