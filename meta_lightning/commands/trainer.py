"""The Trainer that the command line finds its commands in."""

from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from meta_lightning.algorithms import MetaModule
from meta_lightning.commands.benchmark import benchmark
from meta_lightning.commands.episodes import write_episodes
from meta_lightning.data import EpisodicDataModule


class MetaTrainer(Trainer):
    """Lightning's, with the commands that need a config and are not Lightning's: it finds them here by name."""

    def test(  # type: ignore[override]  # the command line takes a list where Lightning takes a path
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: list[str] | str | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Measure a checkpoint on the test episodes, or several training seeds of one experiment.

        Args:
            model: The algorithm.
            dataloaders: Not used.
            ckpt_path: ``best``, ``last``, a path, a pattern in quotes, or a list of these in brackets.
            verbose: Print Lightning's own table.
            datamodule: The episodes.
            weights_only: Load tensors and plain data alone.
        """
        return super().test(model, dataloaders, cast(str | None, ckpt_path), verbose, datamodule, weights_only)

    def benchmark(
        self, model: MetaModule, datamodule: EpisodicDataModule, compile: bool = False, seconds: float = 5.0
    ) -> None:
        """Time every way of mapping over tasks on this machine, and name the fastest.

        Args:
            model: The algorithm.
            datamodule: The episodes.
            compile: Time compiled ones too; compiling takes up to minutes for each.
            seconds: About how long to time each.
        """
        benchmark(self, model, datamodule, compile=compile, seconds=seconds)

    def episodes(
        self,
        model: LightningModule,
        datamodule: EpisodicDataModule,
        split: Literal["val", "test"] = "test",
        output: Path = Path("episodes.json"),
    ) -> None:
        """Write down which classes and examples each evaluation episode consists of.

        Args:
            model: Not used.
            datamodule: The episodes.
            split: Which of them.
            output: The JSON file, for ``data.episodes``.
        """
        write_episodes(datamodule, split, output)
