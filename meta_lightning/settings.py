"""Rules between settings: what follows from another key, and what can't be heeded."""

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from meta_lightning.errors import ConfigError
from meta_lightning.limits import precision_problem, strategy_problem


def check_sections(files: list[Any]) -> None:
    """Refuses a config file with a section that is no mapping: the parser would pass over it without a word.

    Args:
        files: The paths given with ``--config``.
    """
    for file in files:
        path = Path(str(file))
        content = yaml.safe_load(path.read_text()) if path.is_file() else {}
        for section in ("model", "data", "trainer", "checkpoint", "report", "figures"):
            if section in content and not isinstance(content[section], dict):
                raise ConfigError(f"{path}: {section} is {content[section]!r}; expected a mapping of its keys")


def check_nulls(key: str, owner: type, values: Namespace | dict[str, Any]) -> None:
    """Refuses null for keys that do not take it, in a class's arguments and those of the classes below.

    Args:
        key: The dotted name of the class's key, for messages.
        owner: The class.
        values: Its arguments.
    """
    for name, value in (values if isinstance(values, dict) else vars(values)).items():
        if isinstance(value, Namespace) and "class_path" in value:
            check_nulls(f"{key}.{name}", _named(value.class_path), value.get("init_args") or {})
        elif value is None and not _takes_null(owner, name):
            raise ConfigError(f"{key}.{name} is null, which it does not take; give a value or leave the key out")


def _named(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found


def _takes_null(owner: type, name: str) -> bool:
    for base in getattr(owner, "__mro__", ()):
        parameter = signature(base.__init__).parameters.get(name)
        if parameter is not None:
            return parameter.default is None or "None" in str(parameter.annotation)
    return True


def check_trainer(trainer: Namespace) -> None:
    """Refuses the trainer's keys that manual optimization or training by meta-steps can't heed."""
    interval = trainer.val_check_interval
    by_itself = "meta-learning steps its optimizer itself: set "
    by_steps = "training counts meta-steps, not epochs: "
    if problem := precision_problem(trainer.precision) or strategy_problem(_class_name(trainer.strategy)):
        raise ConfigError(problem)
    refusals = {
        "gradient_clip_val": (trainer.gradient_clip_val is not None, by_itself + "model.grad_clip instead"),
        "accumulate_grad_batches": (
            trainer.accumulate_grad_batches != 1,
            by_itself + "data.meta_batch_size, and model.task_chunk for memory",
        ),
        "check_val_every_n_epoch": (trainer.check_val_every_n_epoch is not None, by_steps + "leave it null"),
        "val_check_interval": (
            interval is not None and (not isinstance(interval, int) or interval < 1),
            by_steps + "expected a whole number of meta-steps",
        ),
        "overfit_batches": (bool(trainer.overfit_batches), by_steps + "set data.meta_batch_size and data.val_tasks"),
    }
    for key, (refused, remedy) in refusals.items():
        if refused:
            raise ConfigError(f"trainer.{key} is {trainer[key]}; {remedy}")


def _class_name(setting: Any) -> str:
    """What was chosen, in a word: an alias, or the name of a class."""
    return str(setting.class_path).rpartition(".")[2] if isinstance(setting, Namespace) else str(setting)


def link_ways(settings: Namespace) -> None:
    """A classifier's width is the number of ways; a net that was given another width is refused.

    Nets that give features, for methods that make the classifier from the support set, have any width.
    """
    ways, train_ways = settings.data.ways, settings.data.train_ways
    if not getattr(_named(settings.model.class_path), "net_predicts", True):
        return
    net = (settings.model.get("init_args") or {}).get("net")
    options = net.get("init_args") if isinstance(net, Namespace) else None
    if ways is None or options is None or "out_features" not in options:
        return
    if options.out_features is None:
        options.out_features = ways
    if options.out_features != ways:
        raise ConfigError(
            f"data.ways is {ways}, but model.init_args.net.init_args.out_features is {options.out_features}; "
            "make them equal, or leave out_features out"
        )
    if train_ways not in (None, ways):
        raise ConfigError(
            f"data.train_ways is {train_ways}, but data.ways is {ways}: a classifier has one width; make them equal"
        )


def check_evaluated(command: str, settings: Namespace) -> None:
    """Refuses a command that does not say which weights it is about.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        settings: Of the command.
    """
    if settings.untrained and (settings.ckpt_path is not None or command == "fit"):
        raise ConfigError("--untrained true measures the initialisation: leave it out with --ckpt_path or fit")
    if settings.ckpt_path is None and command != "fit" and not settings.untrained:
        raise ConfigError(
            f"{command} needs a checkpoint: add --ckpt_path best, last or a path "
            "(or --untrained true, to measure the initialisation)"
        )
