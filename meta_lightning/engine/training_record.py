"""The record of a training, which a checkpoint and a module in memory carry."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from meta_lightning.console import printable

# Prefixes of settings of the algorithm that say how it is evaluated. A rate is not one: it is a part of the method.
_OF_EVALUATION = ("eval_", "batch_norm", "loss")
_DATA_KEYS = {"eval_shape": "data.ways, data.shots, data.queries", "val_episodes": "the hash of data.episodes"}


class TrainingRecord(NamedTuple):
    """The training that some weights went through.

    Attributes:
        meta_steps: The number of meta-steps taken.
        seed: ``seed_everything``; None if it is unknown.
        settings: The algorithm's settings, see `MetaModule.settings`.
        data: The data's settings, see `EpisodicDataModule.state_dict`.
        max_steps: ``trainer.max_steps``, -1 for no limit; None if it is unknown.
        path: The checkpoint that the weights were loaded from; None if they changed since, or were never in a file.
        inputs: What the inputs looked like, see `EpisodicDataModule.input_summaries`; None if it is unknown.
    """

    meta_steps: int
    seed: int | None
    settings: dict[str, Any]
    data: dict[str, Any]
    max_steps: int | None = None
    path: str | None = None
    inputs: dict[str, dict[str, Any]] | None = None

    @classmethod
    def read(cls, content: Mapping[str, Any], path: object = None) -> "TrainingRecord":
        """The record in a checkpoint. Entries that the checkpoint lacks are empty.

        Args:
            content: The entries of the checkpoint.
            path: The file of the checkpoint; None if it is unknown.
        """
        data = content.get("EpisodicDataModule", {})
        seed = content.get("step_seed", data.get("seed"))
        steps, settings = content.get("global_step", 0), content.get("settings", {})
        # A module that was trained by several trainers has taken more steps than the last trainer counts.
        taken = content.get("meta_steps", steps)
        source = None if path is None else str(path)
        return cls(taken, seed, settings, data, content.get("max_steps"), source, content.get("inputs"))

    def changes(self, settings: dict[str, Any]) -> list[str]:
        """Describes the settings of the algorithm that differ from those of the training, one line for each.

        Args:
            settings: The current settings, from the command line and the YAML.
        """
        return [describe_change(key, *values) for key, values in self.differences(settings).items()]

    def differences(self, settings: dict[str, Any]) -> "Differences":
        """The settings of the algorithm that differ from those of the training.

        Args:
            settings: The current settings, from the command line and the YAML.
        """
        return {
            f"model.{name}": (settings[name], self.settings[name])
            for name in sorted(self.settings.keys() & settings.keys())
            if self.settings[name] != settings[name]
        }

    def incomparable(self, settings: dict[str, Any], data: dict[str, Any]) -> list[str]:
        """Describes the changes that keep validations from being compared with those of the training, one for each.

        Args:
            settings: The current settings of the algorithm.
            data: The current settings of the data.
        """
        evaluated = self.settings.keys() & settings.keys()
        pairs = [
            (f"model.{name}", self.settings[name], settings[name])
            for name in sorted(evaluated)
            if name.startswith(_OF_EVALUATION)
        ]
        saved = {"eval_shape", "eval_seed", "val_tasks"} & self.data.keys() | {"val_episodes"}
        pairs += [(_DATA_KEYS.get(name, f"data.{name}"), self.data.get(name), data.get(name)) for name in sorted(saved)]
        return [f"{key} is {now} here, {printable(then)} in the checkpoint" for key, then, now in pairs if now != then]


Differences = dict[str, tuple[Any, Any]]
"""Settings that differ from those of a checkpoint: by key, the value here and the value there."""


def describe_change(key: str, now: Any, then: Any) -> str:
    """A line on a setting that differs from that of a checkpoint.

    Example:
        >>> describe_change("trainer.max_steps", 20, None)
        'trainer.max_steps is 20 here, null in the checkpoint: the command line and YAML win'
    """
    return f"{key} is {_in_words(now)} here, {_in_words(then)} in the checkpoint: the command line and YAML win"


def _in_words(value: Any) -> str:
    """A setting as YAML writes it, with the names of classes alone."""
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        return printable(value["class_path"].rpartition(".")[2])
    if isinstance(value, list):
        return printable(f"[{', '.join(map(_in_words, value))}]")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return printable(value)


def note_training(module: Any) -> None:
    """Has a `MetaModule` that starts to train keep the record of it; the meta-steps that it took before count too.

    Args:
        module: The module, attached to its trainer.
    """
    trainer = module.trainer
    before = module.record.meta_steps if module.record is not None else trainer.global_step
    data = trainer.datamodule.state_dict() if trainer.datamodule is not None else {}
    module.record = TrainingRecord(before, module.step_seed, module.settings(), data, trainer.max_steps)


def meta_steps_of(module: Any) -> int:
    """The meta-steps that the weights of a `MetaModule` have taken, by any trainer: where its results are logged."""
    return 0 if module.record is None else int(module.record.meta_steps)
