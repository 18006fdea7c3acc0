"""One task through a module before anything is trained or written: does the net fit the data and the method?"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_lightning.algorithms import InnerLoopModule, MetaModule
from meta_lightning.checks.failing_layer import watch
from meta_lightning.console import first_line
from meta_lightning.engine.user_code import find_place
from meta_lightning.errors import ConfigError
from meta_lightning.functional.task_kind import LOSSES
from meta_lightning.functional.tasks import Backend
from meta_lightning.types import Inputs, Prediction, Task


def check_constructed(module: MetaModule) -> None:
    """Refuses a module whose constructor left out that of its base class.

    Raises:
        ConfigError: Says what to call.
    """
    if "_arguments" not in vars(module):
        name = type(module).__name__
        raise ConfigError(
            f"{name}.__init__ does not call super().__init__(net, ...); call it first, and pass on the keys of the "
            "base class: def __init__(self, net, ..., **inner) and super().__init__(net, **inner)"
        )


def check_learns(module: MetaModule) -> None:
    """Refuses to train a module that has nothing to learn.

    Raises:
        ConfigError: If no parameter requires a gradient.
    """
    if not module.learnable():
        raise ConfigError(
            "model.net has no parameter that learns, so there is nothing to train: set requires_grad of a part of it, "
            "or measure it as it is with the command test"
        )


def check_net(module: MetaModule, tasks: Task) -> list[str]:
    """Predicts one task with a copy of the module, as in evaluation, and checks the outputs and the loss.

    Args:
        module: The algorithm with its net.
        tasks: A meta-batch of one task, preprocessed, on the module's device.

    Returns:
        The names of what an evaluation logs, such as ``accuracy`` and ``accuracy_before``.

    Raises:
        ConfigError: If the net does not take the inputs, its outputs do not fit the targets, or the
            loss is not one number.
    """
    twin = copy.deepcopy(module)
    twin.set_backend(Backend("loop"))
    task: Task = tree_map(lambda tensor: tensor[0], tasks)
    kind = module.task_kind(task.query.y)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _check_method(twin, task)
        predictions = _predict(twin, task)
        if not isinstance(predictions, Tensor):
            raise ConfigError(f"model.net returns a {type(predictions).__name__}; expected a tensor of predictions")
        if expected := kind.output_problem(predictions, task.query.y):
            dtype, shape = str(predictions.dtype).removeprefix("torch."), list(predictions.shape)
            raise ConfigError(
                f"model.net gives {dtype} {shape} for targets {list(task.query.y.shape)} up to "
                f"{task.query.y.max().item():.3g}; expected floats {expected}: check its width"
            )
        _check_loss(module, predictions, task.query.y)
    names = ["loss", kind.metric]
    return names + [f"{name}_before" for name in names if module.has_inner_loop]


def _check_method(twin: MetaModule, task: Task) -> None:
    """Refuses a method that does not yield what its base class says, before anything is made of it."""
    params, buffers, name = twin.learnable(), dict(twin.named_buffers()), type(twin).__name__
    if isinstance(twin, InnerLoopModule):
        steps = twin.trajectory(params, buffers, task, 0, first_order=True)
        _check_yields(steps, dict, f"{name}.trajectory", "the parameters of the net by name")
    _check_yields(twin.curve(params, buffers, task), Prediction, f"{name}.curve", "meta_lightning.types.Prediction")


def _check_yields(steps: object, kind: type, name: str, expected: str) -> None:
    if not isinstance(steps, Iterator):
        raise ConfigError(f"{name} returns {type(steps).__name__}; expected it to yield {expected} after each step")
    if not isinstance(first := next(steps, None), kind):
        raise ConfigError(f"{name} yields {type(first).__name__}; expected {expected}")


def _predict(twin: MetaModule, task: Task) -> Tensor:
    """What the module predicts before adaptation; whatever its net raises is a matter of the settings."""
    outputs: list[object] = []
    twin.net.register_forward_hook(lambda *call: outputs.append(call[-1]))
    with watch(twin.net) as under_way:
        try:
            return first_prediction(twin, task)
        except ConfigError:
            raise
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            if outputs and not isinstance(outputs[-1], Tensor):
                raise ConfigError(
                    f"model.net returns a {type(outputs[-1]).__name__}; expected a tensor of predictions"
                ) from error
            if not under_way or (isinstance(error, AttributeError) and find_place(error) is not None):
                raise
            raise ConfigError(
                f"model.net takes no inputs of shape {_shape(task.query.x)}: {first_line(error)}"
            ) from error


def first_prediction(module: MetaModule, task: Task) -> Tensor:
    """What the module predicts for the queries of one task before adaptation."""
    return next(iter(module.curve(module.learnable(), dict(module.named_buffers()), task)))()


def _shape(x: Inputs) -> object:
    return {name: list(tensor.shape) for name, tensor in x.items()} if isinstance(x, dict) else list(x.shape)


def _check_loss(module: MetaModule, predictions: Tensor, targets: Tensor) -> None:
    kind = module.task_kind(targets)
    if module.loss in LOSSES and module.loss != kind.loss:
        what = "values" if targets.is_floating_point() else "class labels"
        raise ConfigError(f"model.loss is {module.loss}, but the targets are {what}; expected {kind.loss} or auto")
    try:
        loss = module.loss_of(predictions, targets)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model.loss can't be taken of predictions and targets ({first_line(error)}); expected one number"
        ) from error
    if not isinstance(loss, Tensor) or loss.ndim:
        shape = list(torch.as_tensor(loss).shape)
        raise ConfigError(f"model.loss gives {shape} numbers; expected the mean over examples, one number")
