"""The table of all commands, from which the parser, its help and the error messages take their lists."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from meta_lightning.commands.adapt import adapt
from meta_lightning.commands.benchmark import run_benchmark
from meta_lightning.commands.compare import compare_reports
from meta_lightning.commands.episodes import write_episodes
from meta_lightning.commands.predict import predict
from meta_lightning.commands.trainer import MetaTrainer


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        function: The function that the command calls. Its annotations and docstring become the command's arguments and
            their help.
        needs: ``checkpoint`` for a command with a config and a checkpoint that is resumed or evaluated; ``config`` for
            a command with a config, whose function takes ``trainer``, ``model`` and ``datamodule`` first; ``nothing``
            for a command with only its own arguments.
        summary: One line for the help.
        hidden: Parameters of the function that are not arguments of the command.
    """

    function: Callable[..., Any]
    needs: Literal["checkpoint", "config", "nothing"]
    summary: str
    hidden: frozenset[str] = frozenset({"model", "datamodule"})


_LOADERS = frozenset({"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", "verbose"})

COMMANDS: dict[str, Command] = {
    "fit": Command(MetaTrainer.fit, "checkpoint", "Train, or resume a run with --ckpt_path last.", _LOADERS),
    "validate": Command(MetaTrainer.validate, "checkpoint", "Measure a checkpoint on validation episodes.", _LOADERS),
    "test": Command(MetaTrainer.test, "checkpoint", "Measure checkpoints on test episodes; write a report.", _LOADERS),
    "adapt": Command(adapt, "nothing", "Adapt a trained run to a support set; write a file to predict with."),
    "predict": Command(predict, "nothing", "Predict new inputs with an adapted file."),
    "compare": Command(compare_reports, "nothing", "Compare two test reports task by task."),
    "episodes": Command(write_episodes, "config", "Write the evaluation episodes to a file that can be replayed."),
    "benchmark": Command(run_benchmark, "config", "Time all settings of the task loop on this machine."),
}


def make_trainer_class() -> type[MetaTrainer]:
    """A trainer class that has the commands with a config as methods, where `LightningCLI` looks for them."""
    methods = {name: command.function for name, command in COMMANDS.items() if command.needs == "config"}
    return type("MetaTrainer", (MetaTrainer,), methods)


__all__ = ["COMMANDS", "Command", "MetaTrainer", "make_trainer_class"]
