"""Loads a module and its data from a run folder."""

from pathlib import Path
from typing import NamedTuple

import torch

from meta_lightning.algorithms import MetaModule
from meta_lightning.data import EpisodicDataModule
from meta_lightning.engine import recipes
from meta_lightning.errors import ConfigError
from meta_lightning.runs.adapted import adapt_to_files
from meta_lightning.runs.checkpoint import Checkpoint, TrainingRecord
from meta_lightning.runs.predictions import Predictions
from meta_lightning.types import Inputs


class Run(NamedTuple):
    """A trained run, as `load_run` returns it.

    Attributes:
        module: The algorithm with the weights of the checkpoint, in eval mode.
        data: The episodes with the settings of the training run. No data file is opened before episodes are drawn.
        record: The training record of the checkpoint.

    Example:
        >>> module, data, record = load_run("logs/sinusoid/maml/version_0")
        >>> type(module).__name__, type(data.source).__name__, record.meta_steps
        ('MAMLModule', 'Sinusoid', 4)
    """

    module: MetaModule
    data: EpisodicDataModule
    record: TrainingRecord

    def predict(self, support: str | Path, inputs: str | Path | Inputs, steps: int | None = None) -> Predictions:
        r"""Adapts to a support set in files, and predicts new inputs.

        Args:
            support: Class folders, a zip, a CSV file, or whatever else the source of the training reads.
            inputs: The same without classes; or prepared inputs, ``[inputs, *shape]``.
            steps: Adaptation steps; None for ``eval_inner_steps``.

        Raises:
            ConfigError: If the files can't be read, or do not fit the run.

        Example:
            >>> import tempfile
            >>> run = load_run("logs/sinusoid/maml/version_0")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     _ = (Path(folder) / "support.csv").write_text("x,y\n0,1\n1,3\n2,2\n")
            ...     predictions = run.predict(Path(folder) / "support.csv", torch.tensor([[0.5], [1.5]]))
            >>> predictions.values.shape
            torch.Size([2, 1])
        """
        adapted, _ = adapt_to_files(self.module, self.record.data.get("constants") or {}, Path(support), steps)
        return adapted.predict(inputs)


def load_run(path: str | Path, device: str | torch.device = "cpu") -> Run:
    """Loads a run that the command line trained.

    Args:
        path: A checkpoint, or a run folder. Of a folder, ``best.ckpt`` is loaded, or ``last.ckpt`` if there is no best.
        device: The device that the module is moved to.

    Raises:
        ConfigError: If there is no checkpoint, or the run can't be rebuilt from it because a class of the user can't be
            imported or the run was started from Python.

    Example:
        >>> run = load_run("logs/sinusoid/maml/version_0")
        >>> run.record.meta_steps
        4
        >>> run.module.inner_lr
        0.01
    """
    checkpoint = Checkpoint.read(_checkpoint_path(Path(path)))
    module = recipes.restore(MetaModule, checkpoint.content, checkpoint.path, {})  # type: ignore[type-abstract]  # any subclass
    recipe = checkpoint.content["recipe"].get("data")
    if recipe is None:
        raise ConfigError(
            f"{checkpoint.path} does not record how its data were built; expected a run of the command line: use "
            f"{type(module).__name__}.load_from_checkpoint(path) to load only the module"
        )
    data = recipes.build(recipe, EpisodicDataModule)
    return Run(module.to(device).eval(), data, checkpoint.record)


def _checkpoint_path(path: Path) -> Path:
    if path.is_file():
        return path
    for name in ("best", "last"):
        checkpoint = path / "checkpoints" / f"{name}.ckpt"
        if checkpoint.is_file():
            return checkpoint
    raise ConfigError(f"{path} holds no checkpoints/best.ckpt or last.ckpt; expected a run folder or a checkpoint")
