"""The meta-gradient of a user's net, compared with finite differences before anything is trained."""

import copy
import math
import time
from collections.abc import Callable
from textwrap import shorten

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from meta_lightning.algorithms import InnerLoopModule, MetaModule
from meta_lightning.checks.failing_layer import watch, without_derivative, wrong_derivative
from meta_lightning.checks.net import first_prediction
from meta_lightning.console import notify
from meta_lightning.engine.user_code import find_place
from meta_lightning.errors import ConfigError
from meta_lightning.functional.layers import type_name
from meta_lightning.functional.params import dot, flatten, strip_prefix, unflatten
from meta_lightning.functional.tasks import Backend, chunk_gradient, map_tasks
from meta_lightning.types import Params, Task

_STEPS = 3  # wrong batching rules show only where tasks have weights of their own, that is, from the second step on
_TOLERANCE = 1e-4  # of the slope; rounding in double precision leaves about 1e-6
_PATIENCE_S = 20.0
_PLAIN = Backend("loop")


def check_gradient(module: MetaModule, tasks: Task) -> None:
    """Checks that the module's meta-gradient can be computed and is right.

    The check runs on copies: under the module's backend, in its own precision, in eval mode and in training mode, where
    some layers change themselves. In double precision and in eval mode, where neither dropout nor rounding disturbs, it
    compares the gradient of three tasks after three inner steps with one directional finite difference, and the
    gradient under vmap with the one computed task by task. torch 2.13 has layers with wrong second derivatives, with
    and without vmap, and does not report them.

    For a method without second derivatives the finite difference is of the loss before adaptation.

    Args:
        module: The algorithm with its net.
        tasks: A meta-batch of three tasks, preprocessed, on the module's device.

    Raises:
        ConfigError: If a layer lacks a derivative or a batching rule, or a derivative is wrong.
    """
    backend = module.backend
    remedy = "model.task_loop: loop" if backend.batched else "another layer"
    twin = _short(copy.deepcopy(module).eval())
    _gradient(twin, tasks, _PLAIN, "model.first_order: true, if the method has it")
    if backend.batched:
        _gradient(twin, tasks, backend, remedy)
    # The last one is timed: the first ones load what torch loads on first use. Another program's time does not count.
    clock = time.process_time if module.device.type == "cpu" else time.perf_counter
    started = clock()
    with torch.random.fork_rng(devices=[]):
        _gradient(_short(copy.deepcopy(module)), tasks, backend, remedy)
    seconds = clock() - started
    if module.check_derivative:
        # Five more such computations, each in double precision.
        if seconds * 10 > _PATIENCE_S:
            notify(
                "Note: the meta-gradient of model.net was not compared with finite differences, because one takes "
                f"{seconds:.0f} seconds"
            )
            return
        if seconds * 10 > _PATIENCE_S / 5:
            notify(f"Comparing the meta-gradient with finite differences takes about {seconds * 10:.0f} seconds ...")
        _compare(twin, tasks, backend)


def _short(module: MetaModule) -> MetaModule:
    """Makes a copy adapt in few steps."""
    if isinstance(module, InnerLoopModule) and module.inner_steps:
        module.inner_steps = _STEPS
    return module


def _gradient(module: MetaModule, tasks: Task, backend: Backend, remedy: str) -> Tensor:
    module.set_backend(backend)
    loss = module.loss if isinstance(module.loss, nn.Module) else nn.Module()
    with watch(module.net) as under_way, watch(loss) as loss_under_way:
        try:
            grads, _, _ = module.meta_step(module.learnable(), dict(module.named_buffers()), tasks, torch.tensor(0))
        except RuntimeError as error:
            reason = shorten(str(error).partition("\n")[0], 120, placeholder=" ...")
            layer: str | None = f"model.loss ({type(loss).__name__})"
            if not loss_under_way:
                layer = _failing_layer(module, tasks, under_way, batched=backend.batched)
            if (
                layer is None
                and not type(module).__module__.startswith("meta_lightning.")
                and (place := find_place(error))
            ):  # the method of the user's
                if not backend.batched:
                    raise
                raise ConfigError(f"{place.function} can't be mapped over tasks ({reason}); try {remedy}") from error
            layer = layer or "model.net"
            raise ConfigError(f"{layer} can't be differentiated as it is ({reason}); try {remedy}") from error
    return flatten(grads.values())


def _failing_layer(module: MetaModule, tasks: Task, under_way: list[str], *, batched: bool) -> str | None:
    """The layer that an error came from; None if that can't be told."""
    name: str | None = under_way[-1] if under_way else None
    if not under_way:  # the error came from a derivative, which names no layer: try the layers one by one
        task = _first(tasks)
        name = without_derivative(module.net, lambda: first_prediction(module, task), batched=batched)
        if name is None and isinstance(module.loss, nn.Module):
            predictions = first_prediction(module, task).detach()
            if (
                without_derivative(module.loss, lambda: module.loss_of(predictions, task.query.y), batched=batched)
                == ""
            ):
                return f"model.loss ({type(module.loss).__name__})"
    return None if name is None else _layer(module, name)


def _first(tasks: Task) -> Task:
    task: Task = tree_map(lambda tensor: tensor[0], tasks)
    return task


def _layer(module: MetaModule, name: str | None) -> str:
    if not name:
        return "model.net"
    return f"model.net: layer {name} ({type_name(module.net.get_submodule(name))})"


def _compare(twin: MetaModule, tasks: Task, backend: Backend) -> None:
    """Compares the gradients of a copy in double precision.

    Raises:
        ConfigError: If they disagree.
    """
    twin = twin.double()
    for layer in twin.net.modules():
        if isinstance(layer, nn.Embedding):
            layer.scale_grad_by_freq = False  # it makes a gradient that is not the derivative, on purpose
    tasks = tree_map_only(Tensor, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, tasks)
    params = {name: tensor.clone() for name, tensor in twin.learnable().items()}
    try:
        plain = _gradient(twin, tasks, _PLAIN, "")
        value = _value(twin, tasks)
        first, again = value(params), value(params)
    except ConfigError as error:  # it did run in its own precision
        notify(f"Note: model.net does not run in double precision, so its derivatives were not compared ({error})")
        return
    if not (math.isfinite(first) and torch.isfinite(plain).all()):
        return
    if first != again:
        notify("Note: model.net is random in eval mode, so its derivatives were not compared with finite differences")
        return
    problem = _plain_problem(twin, tasks, params, plain, value)
    if problem is None and backend.batched:
        problem = _batched_problem(twin, tasks, backend, plain)
    if problem is None:
        return
    if _is_unstable(twin, tasks, plain):
        notify(
            "Note: the inner loop amplifies rounding errors, so the derivatives of model.net were not compared; a "
            "smaller inner learning rate may help"
        )
        return
    raise ConfigError(problem)


def _plain_problem(
    twin: MetaModule, tasks: Task, params: Params, plain: Tensor, value: Callable[[Params], float]
) -> str | None:
    """The message if the gradient computed task by task disagrees with finite differences."""
    gap = _directional_error(value, params, _value_gradient(twin, tasks, params, plain))
    if gap <= _TOLERANCE:
        return None
    where = _wrong_layer(twin, tasks, batched=False)
    remedy = "use another layer" + (", or model.first_order: true" if twin.second_order else "")
    return (
        f"{where} has a wrong derivative: the meta-gradient is off by {gap:.2%} from "
        f"finite differences; {remedy}. If its gradient differs from the derivative on purpose, set "
        "model.check_derivative: false"
    )


def _batched_problem(twin: MetaModule, tasks: Task, backend: Backend, plain: Tensor) -> str | None:
    """The message if the gradient under vmap disagrees with the one computed task by task."""
    mapped = _gradient(twin, tasks, backend, "model.task_loop: loop")
    scale = max(plain.norm().item(), 1e-8)  # below it, a gradient that is zero by symmetry is all rounding
    gap = (mapped - plain).norm().item() / scale
    if gap <= 1e-5:
        return None
    size = "not finite" if math.isnan(gap) else f"off by {gap:.1%}"
    return (
        f"the meta-gradient of model.net under vmap is {size}: {_wrong_layer(twin, tasks, batched=True)} has a wrong "
        "derivative there; set model.task_loop to loop"
    )


def _is_unstable(twin: MetaModule, tasks: Task, plain: Tensor) -> bool:
    """Whether a change of the parameters in their last digits changes the gradient in its first ones."""
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1 + 1e-13)
    nearby = _gradient(twin, tasks, _PLAIN, "")
    change = (nearby - plain).norm() / plain.norm()
    return not bool(change <= 1e-8)


def _value(twin: MetaModule, tasks: Task) -> Callable[[Params], float]:
    """The mean over tasks of what is differentiated, as a function of the parameters."""
    buffers, step = dict(twin.named_buffers()), torch.tensor(0)

    def value(params: Params) -> float:
        def of_task(task: Task) -> Tensor:
            if twin.second_order:
                return twin.task_objective(params, buffers, task, step).loss
            return _loss_before(twin, params, task)

        with torch.no_grad():
            return float(map_tasks(of_task, tasks, _PLAIN).mean())

    return value


def _value_gradient(twin: MetaModule, tasks: Task, params: Params, plain: Tensor) -> Params:
    if twin.second_order:
        return dict(zip(params, unflatten(plain, params.values()), strict=True))
    total = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    count = len(tasks.index)
    for number in range(count):
        task = tree_map(lambda tensor, n=number: tensor[n : n + 1], tasks)
        gradient, _ = chunk_gradient(lambda p, t: (_loss_before(twin, p, t), {}), params, task, _PLAIN)
        total = {name: tensor + gradient[name] / count for name, tensor in total.items()}
    return total


def _loss_before(twin: MetaModule, params: Params, task: Task) -> Tensor:
    predict = next(iter(twin.curve(params, dict(twin.named_buffers()), task)))
    with twin.loss_parameters(strip_prefix(params, "loss.")):
        return twin.loss_of(predict(), task.query.y)


def _directional_error(value: Callable[[Params], float], params: Params, gradient: Params) -> float:
    """How far a gradient is from central differences in one direction, relative to the slope.

    The direction is half the gradient's own and half random, but zero where the gradient is zero: entries that are held
    fixed on purpose, such as the padding of an embedding, have no gradient although the value depends on them. Three
    step sizes are tried, because a step may cross the kink of a ReLU.
    """
    generator = torch.Generator().manual_seed(0)
    size = math.sqrt(float(dot(gradient, gradient)))
    if size == 0.0:
        return 0.0
    noise = {
        name: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device) * (tensor != 0)
        for name, tensor in gradient.items()
    }
    scale = size / math.sqrt(float(dot(noise, noise)))
    direction = {name: (tensor + scale * noise[name]) / size for name, tensor in gradient.items()}
    slope = float(dot(gradient, direction))
    errors = []
    for step in (1e-6, 1e-7, 1e-5):
        ahead, behind = (
            value({name: tensor + sign * step * direction[name] for name, tensor in params.items()}) for sign in (1, -1)
        )
        difference = (ahead - behind) / (2 * step)
        rounding = 1e-13 * max(abs(ahead), abs(behind)) / step
        errors.append(max(abs(slope - difference) - rounding, 0.0) / max(abs(slope), abs(difference)))
        if errors[-1] <= _TOLERANCE:
            return errors[-1]
    return min(errors)


def _wrong_layer(twin: MetaModule, tasks: Task, *, batched: bool) -> str:
    def run() -> Tensor:
        return first_prediction(twin, _first(tasks))

    name = wrong_derivative(twin.net, run, batched=batched, twice=twin.second_order)
    return _layer(twin, name)
