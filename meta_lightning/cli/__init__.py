"""The command line."""

from meta_lightning.cli.main import console, main

__all__ = ["console", "main"]
