"""Modules that can be built again from their checkpoints."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule

from meta_lightning.engine import recipes
from meta_lightning.engine.training_record import TrainingRecord


class RestorableModule(LightningModule, ABC):
    """A LightningModule whose checkpoints hold what it takes to build it again: its settings and its recipe."""

    recipe: recipes.Recipe | None = None
    """How the command line built this module; None for a module that was built in Python."""

    record: TrainingRecord | None = None
    """The training that the weights in memory went through; None before the first."""

    trained_with: dict[str, Any]
    """The settings in the checkpoint that was loaded last; empty if there was none."""

    step_seed: int
    """Seeds dropout, together with the number of the meta-step."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The plain settings by name."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds settings, recipes and the seed of dropout to a checkpoint, and drops what only pickle could hold."""
        recipes.prune_hyper_parameters(checkpoint)
        checkpoint |= {"settings": self.settings(), "step_seed": self.step_seed} | recipes.entries(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the seed of dropout and the record of the training, and notes the checkpoint's settings."""
        self.trained_with = checkpoint.get("settings", {})
        self.step_seed = checkpoint.get("step_seed", self.step_seed)
        self.record = TrainingRecord.read(checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is not a plain class method
        cls, checkpoint_path: str | Path, map_location: Any = None, **overrides: Any
    ) -> Self:
        """Loads the module of a checkpoint, with the checkpoint's settings and weights.

        Args:
            checkpoint_path: The file of the checkpoint.
            map_location: The device that the module is moved to; None for the CPU.
            **overrides: Constructor arguments that replace those of the checkpoint. A module whose net was built in
                Python needs ``net``.

        Raises:
            ConfigError: If the checkpoint does not say how to build the module, or its weights do not fit the module.

        Example:
            >>> from meta_lightning import MAMLModule
            >>> path = "logs/sinusoid/maml/version_0/checkpoints/last.ckpt"
            >>> MAMLModule.load_from_checkpoint(path, inner_steps=3).inner_steps
            3
        """
        content = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        module = recipes.restore(cls, content, checkpoint_path, overrides)
        return module if map_location is None else module.to(map_location)
