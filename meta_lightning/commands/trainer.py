"""The trainer of the command line."""

from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer


class MetaTrainer(Trainer):
    """Lightning's trainer with a `test` that takes several checkpoints on the command line."""

    def test(  # type: ignore[override]  # the command line takes a list where Lightning takes a path
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: list[str] | str | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Evaluates a checkpoint, or the checkpoints of several training seeds, on the test episodes.

        Args:
            model: The algorithm.
            dataloaders: Not used.
            ckpt_path: ``best``, ``last``, a path, a pattern in quotes, or a list of these in brackets.
            verbose: Print Lightning's own table.
            datamodule: The data that the episodes are drawn from.
            weights_only: Load only tensors and plain data from the checkpoint.
        """
        return super().test(model, dataloaders, cast(str | None, ckpt_path), verbose, datamodule, weights_only)
