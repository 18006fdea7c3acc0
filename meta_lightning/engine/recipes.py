"""Recipes: how an object was built, as plain data that a checkpoint can hold, and building it again."""

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, TypeVar, cast

import torch
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import register_type
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.parsing import collect_init_args
from torch import Tensor, nn

from meta_lightning.console import first_line, printable
from meta_lightning.engine.constructing import instantiate
from meta_lightning.engine.named import check_named
from meta_lightning.engine.training_record import TrainingRecord
from meta_lightning.errors import ConfigError

T = TypeVar("T")
Net = TypeVar("Net", bound=nn.Module)

Recipe = dict[str, Any]
"""``class_path`` and ``init_args``, nested, as a config file has them."""

# The settings hold the class names of these arguments, which themselves are callables.
_OUTER = ("optimizer", "lr_scheduler")

_PLAIN = (bool, int, float, str)

# Arguments such as the class weights of a loss are lists of numbers in a config file.
register_type(Tensor, serializer=Tensor.tolist, deserializer=partial(torch.as_tensor, dtype=torch.float32))


def serializable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a checkpoint can hold and a person can compare: numbers, words, and lists of them.

    Example:
        >>> serializable({"lr": 0.1, "betas": (0.9, 0.999), "loss": print, "schedule": None})
        {'lr': 0.1, 'betas': [0.9, 0.999]}
    """
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {
        name: value
        for name, value in lists.items()
        if isinstance(value, _PLAIN) or (isinstance(value, list) and all(isinstance(item, _PLAIN) for item in value))
    }


def described(function: object) -> str:
    """A function or a module in words that tell it from another one, as far as words can.

    Example:
        >>> described(nn.SmoothL1Loss(beta=0.5))
        "SmoothL1Loss(beta=0.5, reduction='mean')"
        >>> described(nn.functional.l1_loss)
        'torch.nn.functional.l1_loss'
    """
    if isinstance(function, nn.Module):
        plain = {name: value for name, value in vars(function).items() if isinstance(value, _PLAIN)}
        shown = [f"{name}={plain[name]!r}" for name in sorted(plain) if name[0] != "_" and name != "training"]
        return f"{type(function).__name__}({', '.join(shown)})"
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


def prune_hyper_parameters(checkpoint: dict[str, Any]) -> None:
    """Drops what is no plain data from the entry that ``save_hyperparameters()`` makes.

    A checkpoint is read without running code from it. Objects such as the net could not be read again.

    Example:
        >>> checkpoint = {"hyper_parameters": {"net": nn.Linear(1, 1), "extra": {"sizes": (1, 2)}}}
        >>> prune_hyper_parameters(checkpoint)
        >>> checkpoint
        {'hyper_parameters': {'extra': {'sizes': (1, 2)}}}
    """
    if "hyper_parameters" in checkpoint:
        given = dict(checkpoint["hyper_parameters"])
        checkpoint["hyper_parameters"] = {name: value for name, value in given.items() if _is_plain(value)}
        checkpoint.pop("hparams_type", None)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return type(value) is dict and all(isinstance(key, _PLAIN) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    return value is None or type(value) in _PLAIN or type(value) is Tensor


def constructor_arguments(base: type, frame: FrameType | None) -> dict[str, Any]:
    """The constructor arguments of an object's class and its base classes, read while the object is constructed.

    Args:
        base: The highest base class to include.
        frame: The frame of that class's constructor.

    Returns:
        The arguments by parameter name; None for an argument that is not plain data.
    """
    assert frame is not None
    merged: dict[str, Any] = {}
    for arguments in collect_init_args(frame, [], classes=(base,)):
        merged |= arguments
    return dict.fromkeys(merged) | serializable(merged)


def settings_of(instance: object, arguments: dict[str, Any]) -> dict[str, Any]:
    """The plain settings of an object by name: the attribute of that name, or else the constructor argument.

    Args:
        instance: The object.
        arguments: The result of `constructor_arguments` in its constructor.
    """
    attributes = {name: getattr(instance, name) for name in arguments if hasattr(instance, name)}
    values = serializable(arguments) | serializable(attributes)
    return {name: values[name] for name in sorted(values)}


def build(recipe: Recipe, base: type[T], overrides: Mapping[str, Any] | None = None) -> T:
    """Builds an object from its recipe.

    Args:
        recipe: ``class_path`` and ``init_args``.
        base: The class that the object must be an instance of.
        overrides: Arguments that replace those of the recipe.

    Raises:
        ConfigError: If a class of the recipe can't be imported, or the arguments do not fit its constructor.
    """
    overrides = overrides or {}
    # The base class itself need not be importable: it may be defined inside of a function.
    is_base = recipe["class_path"] == dotted_path(base)
    cls = base if is_base else import_class(recipe["class_path"])
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{recipe['class_path']} is not a {base.__name__}; expected a class derived from it")
    init_args = {name: value for name, value in recipe.get("init_args", {}).items() if name not in overrides}
    key = "data" if issubclass(cls, LightningDataModule) else "model"
    check_named([init_args, recipe.get("dict_kwargs")], key, import_class, cls)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "object", instantiate=False, fail_untyped=False, skip={*overrides})
    try:
        given = parser.parse_object({"object": init_args})
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"{recipe['class_path']} can't be built again: {first_line(error)}") from error
    built = instantiate(parser, given)
    # Unlike `vars`, this has the names of arguments such as `values`, which are methods of a namespace, as they are.
    arguments = dict(built.object.items(branches=True, nested=False)) if "object" in built else {}
    return cls(**arguments, **recipe.get("dict_kwargs", {}), **overrides)


def entries(module: Any) -> dict[str, Any]:
    """The entries of a checkpoint that say how its module and data were built, and how long it was trained.

    Args:
        module: A `MetaModule` that is attached to its trainer.
    """
    data = module.trainer.datamodule
    parts = {"model": module.recipe, "data": getattr(data, "recipe", None)}
    known = {part: recipe for part, recipe in parts.items() if recipe is not None}
    trained = {} if module.record is None else {"meta_steps": module.record.meta_steps}
    if hasattr(data, "input_summaries"):
        trained["inputs"] = data.input_summaries
    return {"algorithm": dotted_path(type(module)), "recipe": known, "max_steps": module.trainer.max_steps, **trained}


def restore(base: type[Net], content: Mapping[str, Any], path: object, overrides: Mapping[str, Any]) -> Net:
    """Builds the module of a checkpoint, and loads its weights and whatever else the module keeps in a checkpoint.

    Args:
        base: The class that the module must be an instance of.
        content: The checkpoint.
        path: The checkpoint's file, for messages.
        overrides: Arguments that replace those of the checkpoint.

    Raises:
        ConfigError: If the checkpoint does not say how to build the module, or its weights do not fit the module.
    """
    recipe = content.get("recipe", {}).get("model")
    if recipe is None:
        if "net" not in overrides:
            raise ConfigError(
                f"{path} was trained from Python, so how its net is made is not known; pass it: "
                f"{base.__name__}.load_from_checkpoint(path, net=net)"
            )
        recipe = _recipe_from_settings(base, content, path, overrides)
    module: Any = build(recipe, base, overrides)
    module.recipe = None if overrides else recipe
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} does not fit the module that was built for it: {printable(reason)}") from error
    module.on_load_checkpoint(content)
    module.record = TrainingRecord.read(content, path)
    return cast(Net, module)


def _recipe_from_settings(base: type, content: Mapping[str, Any], path: object, overrides: Mapping[str, Any]) -> Recipe:
    """A module's recipe without its net, from the settings in a checkpoint."""
    if "algorithm" not in content or "settings" not in content:
        raise ConfigError(f"{path} does not name its algorithm; expected a checkpoint written by `fit`")
    cls = base if content["algorithm"] == dotted_path(base) else import_class(content["algorithm"])
    parser = ArgumentParser(exit_on_error=False)
    added = parser.add_class_arguments(cls, fail_untyped=False)
    known = {name: value for name, value in content["settings"].items() if name in added and name not in _OUTER}
    if "." in str(known.get("loss", "")) or "(" in str(known.get("loss", "")):  # a description, not a name
        loss = known.pop("loss")
        if "loss" not in overrides:
            raise ConfigError(
                f"{path} was trained from Python with the loss {loss}; pass it: "
                f"{base.__name__}.load_from_checkpoint(path, net=net, loss=loss)"
            )
    return {"class_path": content["algorithm"], "init_args": known}


def dotted_path(cls: type) -> str:
    """The path that a class can be imported by.

    Example:
        >>> dotted_path(nn.Linear)
        'torch.nn.modules.linear.Linear'
    """
    return f"{cls.__module__}.{cls.__qualname__}"


def import_class(path: str) -> type:
    """Imports a class, or a function that returns an object, by its dotted path.

    Raises:
        ConfigError: If the import fails.

    Example:
        >>> import_class("torch.nn.Linear")
        <class 'torch.nn.modules.linear.Linear'>
    """
    module, _, name = path.rpartition(".")
    try:
        cls: type = getattr(import_module(module), name)
    except Exception as error:  # a module of the user's may raise any
        raise ConfigError(
            f"{path} can't be imported ({first_line(error)}); run in the folder that the path starts from, or "
            "add that folder to PYTHONPATH"
        ) from error
    return cls
