"""Checks before a run starts, so that bad input ends in a one-line message and leaves no files behind."""
