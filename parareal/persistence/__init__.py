"""Saving, checkpointing and resuming: a snapshot is captured from an engine and restored into a new one.

This package imports the engine and results.
"""
