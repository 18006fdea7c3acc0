"""What a config may name: the classes and functions that its keys call are bounded before they are called."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from meta_lightning.console import printable
from meta_lightning.errors import ConfigError

# What models, data and trainers consist of.
_PARTS: tuple[type, ...] = (
    nn.Module, LightningDataModule, Optimizer, LRScheduler, Callback, Logger, Profiler, Strategy, Accelerator,
    CheckpointIO, ClusterEnvironment, LayerSync, Precision,
)  # fmt: skip
_OUTER: dict[str, type] = {"optimizer": Optimizer, "lr_scheduler": LRScheduler}


def check_named(value: Any, key: str, load: Any, owner: Any = None) -> None:
    """Refuses a config that names a class or a function of another kind than its key takes. Nothing is called.

    An optimizer or a schedule is a class of that kind. Any other name is a class that models, data and trainers consist
    of, a class that the parameter's annotation names, or a function whose return annotation is such a class.

    Args:
        value: The value of a key, with classes as ``class_path`` and ``init_args``.
        key: The dotted name of the key, for messages.
        load: Imports a class or a function by its dotted path.
        owner: The class or function that takes the value; None if it is not known.

    Raises:
        ConfigError: Names the key and what it takes.

    Example:
        >>> from meta_lightning.engine.recipes import import_class
        >>> check_named({"class_path": "torch.nn.ReLU"}, "model.net", import_class)
        >>> check_named({"class_path": "os.system"}, "model.net", import_class)
        Traceback (most recent call last):
        ...
        meta_lightning.errors.ConfigError: model.net is os.system, a function that does not say which module it makes; \
expected a class, or a function with a return annotation such as '-> torch.nn.Module'
    """
    if isinstance(value, Namespace | Mapping):
        items = vars(value) if isinstance(value, Namespace) else value
        if isinstance(path := items.get("class_path"), str):
            named = load(path)
            _check(named, path, key, owner)
            for part in ("init_args", "dict_kwargs"):
                check_named(items.get(part), key, load, named)
        else:
            for item, below in items.items():
                check_named(below, f"{key}.{item}", load, owner)
    elif isinstance(value, list | tuple):
        for below in value:
            check_named(below, key, load, owner)
    elif key.endswith(".loss") and (callable(value) or "." in str(value)):
        _check_loss(load(value) if isinstance(value, str) else value, getattr(value, "__qualname__", str(value)), key)


def _check(named: Any, path: str, key: str, owner: Any) -> None:
    name = key.rpartition(".")[2]
    if kind := _OUTER.get(name):
        if not (isinstance(named, type) and issubclass(named, kind)):
            raise ConfigError(
                f"{key} is {printable(path)}; expected a subclass of "
                f"{'torch.optim' if kind is Optimizer else 'torch.optim.lr_scheduler'}.{kind.__name__}"
            )
        return
    allowed = (*_PARTS, *_classes(_hints(owner).get(name)))
    if not isinstance(named, type):
        if not any(issubclass(made, allowed) for made in _classes(_hints(named).get("return"))):
            raise ConfigError(
                f"{key} is {printable(path)}, a function that does not say which module it makes; expected a class, "
                "or a function with a return annotation such as '-> torch.nn.Module'"
            )
    elif not issubclass(named, allowed):
        raise ConfigError(
            f"{key} is {printable(path)}, which is not a part of a model, data or a trainer; expected for example a "
            "subclass of torch.nn.Module, or annotate the argument with the class that it takes"
        )


def _check_loss(named: Any, path: str, key: str) -> None:
    is_module = isinstance(named, type) and issubclass(named, nn.Module)
    if not is_module and Tensor not in _classes(_hints(named).get("return")):
        raise ConfigError(
            f"{key} is {printable(path)}, a function that does not say that it makes a tensor; expected a subclass of "
            "torch.nn.Module, or a function with the return annotation '-> torch.Tensor'"
        )


def _hints(owner: Any) -> dict[str, Any]:
    """The annotations of the parameters of a function or a class, those of base classes included."""
    hints: dict[str, Any] = {}
    for base in reversed(getattr(owner, "__mro__", (owner,))):
        try:
            hints |= get_type_hints(vars(base)["__init__"] if isinstance(base, type) else base)
        except (TypeError, NameError, AttributeError, KeyError):  # none, or of names that are not there
            continue
    return hints


def _classes(hint: Any) -> Iterator[type]:
    """The classes that an annotation names. A class that everything derives from says nothing."""
    if isinstance(hint, type) and hint.__module__ != "builtins":
        yield hint
    for argument in get_args(hint):
        yield from _classes(argument)
