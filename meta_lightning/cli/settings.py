"""Rules for settings: values that follow from other keys, and values that are not supported."""

from collections.abc import Callable
from enum import Enum
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from torch import Tensor

from meta_lightning.engine.launcher import launch_problem, launched
from meta_lightning.engine.recipes import import_class
from meta_lightning.engine.supported import precision_problem, strategy_problem
from meta_lightning.errors import ConfigError
from meta_lightning.types import Task


def check_sections(files: list[Any]) -> None:
    """Refuses a config file with a section that is not a mapping, which the parser would ignore.

    Args:
        files: The values of ``--config``.

    Raises:
        ConfigError: If a section is not a mapping.
    """
    for file in files:
        path = Path(str(file))
        content = yaml.safe_load(path.read_text()) if path.is_file() else {}
        for section in ("model", "data", "trainer", "checkpoint", "report", "figures"):
            if section in content and not isinstance(content[section], dict):
                raise ConfigError(f"{path}: {section} is {content[section]!r}; expected a mapping of its keys")


def check_nulls(key: str, owner: Any, values: Any) -> None:
    """Refuses null for keys that do not allow it, in the arguments of a class and of the classes nested in them.

    The parser does not ask for arguments without a type hint, and leaves them null.

    Args:
        key: The dotted name of the class's key, for messages.
        owner: The class, or the function that makes an object; None for Lightning's own, which may get nulls.
        values: Its arguments.

    Raises:
        ConfigError: If a key is null that does not allow it.
    """
    for name, value in (values if isinstance(values, dict) else vars(values)).items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Namespace) and "class_path" in part:
                named = import_class(part.class_path)
                check_nulls(f"{key}.{name}", named, part.get("init_args") or {})
        if value is None and owner is not None:
            _check_null(key, owner, name)


def _check_null(key: str, owner: Any, name: str) -> None:
    for function in _functions(owner):
        try:
            parameter = signature(function).parameters.get(name)
        except (TypeError, ValueError):  # of a constructor in C
            continue
        if parameter is None:
            continue
        if parameter.annotation is parameter.default is Parameter.empty:
            raise ConfigError(
                f"{key} lacks {name}, which {owner.__qualname__} has no default for: set {key}.{name}, or give it a "
                "default (with a type hint, its value is checked, too)"
            )
        if parameter.default is not None and "None" not in str(parameter.annotation):
            raise ConfigError(f"{key}.{name} is null; expected a value: set one, or leave the key out")
        return


def _functions(owner: Any) -> list[Any]:
    """The function that takes the arguments, or the constructors of a class and of its base classes."""
    return [vars(base).get("__init__", object) for base in owner.__mro__] if isinstance(owner, type) else [owner]


def follow_launcher(trainer: Namespace) -> None:
    """Takes the number of processes from torchrun or srun where the settings leave it open.

    Otherwise Lightning would start one process per trainer on a CPU, and two launched processes would be two runs.

    Raises:
        ConfigError: If the settings contradict the launcher.
    """
    launch = launched()
    if launch is None:
        return
    if trainer.devices in ("auto", -1, "-1"):
        trainer.devices = launch.processes
    if trainer.num_nodes == 1:
        trainer.num_nodes = launch.nodes
    devices = trainer.devices
    if isinstance(devices, str):
        devices = int(devices) if devices.strip().isdigit() else [name for name in devices.split(",") if name.strip()]
    if problem := launch_problem(len(devices) if isinstance(devices, list) else devices, trainer.num_nodes):
        raise ConfigError(f"{problem}, or leave it out")


def check_trainer(trainer: Namespace) -> None:
    """Refuses the trainer's keys that manual optimization or training by meta-steps does not support.

    Raises:
        ConfigError: If such a key is set.
    """
    interval = trainer.val_check_interval
    manual_optimization = "meta-learning steps its optimizer itself: set "
    meta_steps = "training counts meta-steps, not epochs: "
    if problem := precision_problem(trainer.precision) or strategy_problem(_class_name(trainer.strategy)):
        raise ConfigError(problem)
    refusals = {
        "gradient_clip_val": (trainer.gradient_clip_val is not None, manual_optimization + "model.grad_clip instead"),
        "accumulate_grad_batches": (
            trainer.accumulate_grad_batches != 1,
            manual_optimization + "data.meta_batch_size, and model.task_chunk for memory",
        ),
        "check_val_every_n_epoch": (trainer.check_val_every_n_epoch is not None, meta_steps + "leave it null"),
        "val_check_interval": (
            interval is not None and (not isinstance(interval, int) or interval < 1),
            meta_steps + "expected a whole number of meta-steps",
        ),
        "overfit_batches": (bool(trainer.overfit_batches), meta_steps + "set data.meta_batch_size and data.val_tasks"),
    }
    for key, (refused, remedy) in refusals.items():
        if refused:
            raise ConfigError(f"trainer.{key} is {trainer[key]}; {remedy}")


def _class_name(setting: Any) -> str:
    """The alias or the class name of a setting."""
    return str(setting.class_path).rpartition(".")[2] if isinstance(setting, Namespace) else str(setting)


def plain_words(value: Any) -> Any:
    """The settings with plain strings for enumerations, such as a default of `Timer`'s, which YAML can't hold."""
    if isinstance(value, Namespace):
        plain: Namespace = value.clone()
        for key, item in vars(value).items():
            plain[key] = plain_words(item)
        return plain
    if isinstance(value, dict):
        return {key: plain_words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_words(item) for item in value]
    return str(value.value) if isinstance(value, Enum) and isinstance(value, str) else value


def link_ways(settings: Namespace) -> None:
    """Sets a classifier's ``out_features`` to ``data.ways``.

    Methods that build the classifier from the support set use a net that computes features; its width is free.

    Raises:
        ConfigError: If ``out_features`` or ``data.train_ways`` differs from ``data.ways``.
    """
    ways, train_ways = settings.data.ways, settings.data.train_ways
    if not getattr(import_class(settings.model.class_path), "net_predicts", True):
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


def link_widths(settings: Namespace, first_task: Callable[[], Task]) -> None:
    """Sets a net's ``in_features`` and, in regression, its ``out_features`` by the data where they are left open.

    Args:
        settings: The settings of the command, after `link_ways`.
        first_task: Returns a meta-batch of one task, preprocessed. It is called only if a width is open.
    """
    model = import_class(settings.model.class_path)
    net = (settings.model.get("init_args") or {}).get("net")
    options = net.get("init_args") if isinstance(net, Namespace) else None
    if options is None:
        return
    open_widths = [name for name in ("in_features", "out_features") if options.get(name, 0) is None]
    if not getattr(model, "net_predicts", True) or settings.data.ways is not None:
        open_widths = [name for name in open_widths if name == "in_features"]
    if not open_widths:
        return
    support = first_task().support
    if "in_features" in open_widths and isinstance(support.x, Tensor):
        options.in_features = support.x[0, 0].numel()
    if "out_features" in open_widths and support.y.is_floating_point():
        options.out_features = support.y.shape[-1]


def check_evaluated(command: str, settings: Namespace) -> None:
    """Refuses an evaluation without exactly one of ``--ckpt_path`` and ``--untrained``.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        settings: The settings of the command.

    Raises:
        ConfigError: If the weights to evaluate are not clear, or ``fit`` is to evaluate the initialisation.
    """
    if settings.untrained and (settings.ckpt_path is not None or command == "fit"):
        raise ConfigError("--untrained true measures the initialisation: leave it out with --ckpt_path or fit")
    if settings.ckpt_path is None and command != "fit" and not settings.untrained:
        raise ConfigError(
            f"{command} needs a checkpoint: add --ckpt_path best, last or a path "
            "(or --untrained true, to measure the initialisation)"
        )
