"""What happens at the start of every run, from the command line and from Python alike.

Algorithms come before checks and callbacks in the order of imports. The package therefore registers here what a run
starts with, and `MetaModule.configure_callbacks` calls it.
"""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.engine.allocator import keep_freed_memory

Starter = Callable[[Trainer, LightningModule], list[Callback]]
"""Checks a run before anything is written, and returns callbacks to add to it."""

_STARTERS: list[Starter] = []


def at_run_start(starter: Starter) -> None:
    """Registers what is called at the start of each ``fit``, ``validate`` and ``test``, once in each process."""
    _STARTERS.append(starter)


def start_run(module: LightningModule) -> list[Callback]:
    """Checks the run before anything is written, and returns the callbacks that every run has.

    Lightning calls this once for each ``fit``, ``validate`` and ``test``. A method that overrides
    ``configure_callbacks`` returns these callbacks too.
    """
    keep_freed_memory()
    return [callback for starter in _STARTERS for callback in starter(module.trainer, module)]
