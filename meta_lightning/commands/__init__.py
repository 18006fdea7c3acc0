"""Commands that are not Lightning's: one file each, a function whose signature is its command line."""

from meta_lightning.commands.compare import compare

__all__ = ["compare"]
