"""Measurement of time and memory."""
