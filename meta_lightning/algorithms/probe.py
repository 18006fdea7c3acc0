"""One task through a module before anything is trained or written: does the net fit the data and the method?"""

import copy
import math
from textwrap import shorten

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.layer_at_fault import watch, without_derivative
from meta_lightning.errors import ConfigError
from meta_lightning.functional import losses
from meta_lightning.functional.params import flatten
from meta_lightning.functional.tasks import Backend
from meta_lightning.types import Task


def probe(module: MetaModule, tasks: Task) -> list[str]:
    """Runs a copy of the module on one task, as in evaluation, and checks what comes out.

    Args:
        module: The algorithm with its net.
        tasks: A meta-batch of one task, preprocessed, on the module's device.

    Returns:
        The names of what an evaluation logs, such as ``accuracy`` and ``accuracy_before``.

    Raises:
        ConfigError: If nothing learns, the net does not take the inputs, its outputs do not fit the targets, or the
            loss is not one number.
    """
    params = module.learnable()
    if not params:
        raise ConfigError("model.net has no parameter that learns; expected a net with parameters that require grad")
    twin = copy.deepcopy(module)
    twin.use(Backend("loop"))
    task: Task = tree_map(lambda tensor: tensor[0], tasks)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            output = twin.net(task.query.x)
        except (RuntimeError, TypeError, ValueError) as error:
            shape = list(task.query.x.shape)
            raise ConfigError(
                f"model.net takes no inputs of shape {shape}: {str(error).partition(chr(10))[0]}"
            ) from error
        if module.net_predicts:
            _check_output(output, task.query.y)
        else:
            output = next(twin.curve(params, dict(twin.named_buffers()), task))()
        _check_loss(module, output, task.query.y)
    names = ["loss", losses.metric_name(task.query.y)]
    return names + [f"{name}_before" for name in names if module.has_inner_loop]


def _check_output(output: object, targets: torch.Tensor) -> None:
    expected = f"[{len(targets)}, classes]" if losses.is_classification(targets) else str(list(targets.shape))
    if not isinstance(output, torch.Tensor):
        raise ConfigError(f"model.net returns a {type(output).__name__}; expected a tensor of shape {expected}")
    fits = output.shape == targets.shape
    if losses.is_classification(targets):
        fits = output.ndim == 2 and len(output) == len(targets) and output.shape[1] > int(targets.max())
    if not fits or not output.is_floating_point():
        raise ConfigError(
            f"model.net gives {str(output.dtype).removeprefix('torch.')} {list(output.shape)} for targets "
            f"{list(targets.shape)} up to {targets.max().item():.3g}; expected floats {expected}: check its width"
        )


def _check_loss(module: MetaModule, output: torch.Tensor, targets: torch.Tensor) -> None:
    if module.loss == "mse" and losses.is_classification(targets):
        raise ConfigError("model.loss is mse, but the targets are class labels; expected cross_entropy or auto")
    if module.loss == "cross_entropy" and not losses.is_classification(targets):
        raise ConfigError("model.loss is cross_entropy, but the targets are values; expected mse or auto")
    try:
        loss = module.loss_of(output, targets)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"model.loss can't be taken of predictions and targets ({reason}); expected one number"
        ) from error
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        loss = torch.as_tensor(loss)
        raise ConfigError(f"model.loss gives {list(loss.shape)} numbers; expected the mean over examples, one number")


def check_gradient(module: MetaModule, tasks: Task) -> None:
    """Makes the meta-gradient of one task under the module's backend, and compares vmap with the plain way.

    On copies, in eval mode, and in training mode, where some layers change themselves. Compared in eval mode and in
    double precision: dropout and rounding are out of the comparison, so what is left is a layer whose derivative is
    wrong under vmap. torch 2.13 has such layers, and does not say so. A net that does not run in double precision (it
    holds constants of its own) is not compared.

    Args:
        module: The algorithm with its net.
        tasks: A meta-batch of one task, preprocessed.

    Raises:
        ConfigError: If a layer lacks a derivative or a batching rule, or vmap gives another gradient.
    """
    twin = copy.deepcopy(module).eval()
    vmapped = module.backend.batched
    remedy = "model.task_loop: loop" if vmapped else "another layer"
    _gradient(twin, tasks, Backend("loop"), "model.first_order: true, if the method has it")
    if vmapped:
        _gradient(twin, tasks, module.backend, remedy)
    with torch.random.fork_rng(devices=[]):
        _gradient(copy.deepcopy(module).train(), tasks, module.backend, remedy)
    if not vmapped:
        return
    twin = twin.double()
    tasks = tree_map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, tasks)
    try:
        plain = _gradient(twin, tasks, Backend("loop"), remedy)
    except ConfigError:
        return  # it did run in its own precision
    mapped = _gradient(twin, tasks, module.backend, remedy)
    scale = plain.norm().item()
    error = (mapped - plain).norm().item() / scale if scale else 0.0
    if math.isfinite(scale) and not error <= 1e-5:  # nan too
        found = "not finite" if math.isnan(error) else f"off by {error:.1%}"
        raise ConfigError(
            f"the meta-gradient of model.net under vmap is {found}: a layer's derivative is wrong there; "
            "set model.task_loop to loop"
        )


def _gradient(module: MetaModule, tasks: Task, backend: Backend, remedy: str) -> Tensor:
    module.use(backend)
    with watch(module.net) as under_way:
        try:
            grads, _, _ = module.meta_step(module.learnable(), dict(module.named_buffers()), tasks, torch.tensor(0))
        except RuntimeError as error:
            reason = shorten(str(error).partition("\n")[0], 120, placeholder=" ...")
            layer = _named(module.net, tasks, under_way, batched=backend.batched)
            raise ConfigError(f"{layer} can't be differentiated as it is ({reason}); try {remedy}") from error
    return flatten(grads.values())


def _named(net: nn.Module, tasks: Task, under_way: list[str], *, batched: bool) -> str:
    """The layer that an error came from, as far as can be told."""
    # With no layer under way the error came from a derivative, which says nothing of layers: try them one by one.
    name = under_way[-1] if under_way else without_derivative(net, tasks.query.x[0], batched=batched)
    if not name:
        return "model.net"
    return f"model.net: layer {name} ({type(net.get_submodule(name)).__name__})"
