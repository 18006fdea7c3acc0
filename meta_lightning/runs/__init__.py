"""Run folders and checkpoints on disk."""

from meta_lightning.runs.run import Run, load_run

__all__ = ["Run", "load_run"]
