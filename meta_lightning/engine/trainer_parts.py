"""Parts of a trainer that Lightning's connectors set after its construction, where a type checker can't see them."""

from typing import Any

from lightning.pytorch import Callback, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks."""
    parts: Any = trainer
    callbacks: list[Callback] = parts.callbacks
    return callbacks


def datamodule_of(trainer: Trainer) -> Any:
    """The data module; None without one, or before a run starts."""
    parts: Any = trainer
    return parts.datamodule


def is_dry_run(trainer: Trainer) -> bool:
    """Whether ``fast_dev_run`` is set, so that nothing is to be written."""
    parts: Any = trainer
    return bool(parts.fast_dev_run)


def log_interval(trainer: Trainer) -> int:
    """The number of meta-steps between two log points."""
    parts: Any = trainer
    interval: int = parts.log_every_n_steps
    return interval
