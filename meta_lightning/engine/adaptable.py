"""Adaptation to one support set, for use outside of training and evaluation."""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meta_lightning.console import first_line
from meta_lightning.engine.adapted import AdaptedNet, ClassName, WholeMethod
from meta_lightning.engine.restorable import RestorableModule
from meta_lightning.engine.support_set import ready_support
from meta_lightning.errors import ConfigError
from meta_lightning.functional import norm
from meta_lightning.functional.attention import differentiable_attention
from meta_lightning.functional.inputs import call, select
from meta_lightning.functional.params import strip_prefix
from meta_lightning.functional.support_norm import fix_statistics, keep_statistics
from meta_lightning.functional.tasks import Backend
from meta_lightning.types import Buffers, Examples, Metrics, Params, Prediction, Task


class AdaptableModule(RestorableModule):
    """A module that makes a plain net of a support set."""

    net: nn.Module
    batch_norm: norm.Protocol
    backend: Backend

    @abstractmethod
    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """Predicts the queries of one task after 0, 1, ... adaptation steps."""

    def adapt(
        self,
        support_x: Any,
        support_y: Any,
        *,
        steps: int | None = None,
        class_names: Sequence[ClassName] | None = None,
    ) -> AdaptedNet:
        """Adapts to a support set, and returns a plain net that predicts new inputs.

        The net has its own copies of all tensors. Its batch norm uses the statistics of the support set, as under the
        protocol ``inductive``. It works in inference mode and outside, in ``fit`` and outside; the module is unchanged.

        Args:
            support_x: Inputs ``[examples, *shape]`` on any device, preprocessed as in training; a dict of them for a
                net of several inputs.
            support_y: Targets. Floats, ``[examples]`` or ``[examples, out]``, are values of a regression. Integers and
                words, ``[examples]``, are classes.
            steps: Adaptation steps; None for ``eval_inner_steps``.
            class_names: The names of classes whose numbers 0, 1, ... are in ``support_y``; None for the entries of
                ``support_y`` themselves, in sorted order.

        Returns:
            The adapted net. Its ``forward`` gives one logit for each of ``class_names``, or values.

        Raises:
            ConfigError: If inputs and targets do not belong together, there is one class alone, the net has fewer
                outputs than there are classes, the net does not take the inputs, or adaptation diverges.

        Example:
            >>> from meta_lightning import MAMLModule
            >>> net = MAMLModule(nn.Linear(2, 5)).adapt(torch.randn(4, 2), ["cat", "dog", "cat", "dog"], steps=3)
            >>> net(torch.randn(10, 2)).shape, net.class_names
            (torch.Size([10, 2]), ('cat', 'dog'))
        """
        return adapt_to(self, support_x, support_y, steps=steps, class_names=class_names).net

    def adapted_head(self, outputs: Tensor, labels: Tensor) -> nn.Module | None:
        """What turns the outputs of the adapted net into predictions, for a method whose net gives features.

        Args:
            outputs: The adapted net's outputs for the support set, ``[examples, ...]``. To load an adapted file they
                are zeros, and the head's tensors are then read from the file.
            labels: The support set's targets.

        Returns:
            A module from outputs to predictions; None (the default) for a method whose curve does not predict in this
            way. Where the curve's predictions are `predict`'s, the net's outputs are the predictions. Any other method
            predicts by its own curve.
        """
        return None

    @contextmanager
    def following(self, protocol: norm.Protocol) -> Iterator[None]:
        """Has the module predict under another batch-norm protocol for a while."""
        configured, self.batch_norm = self.batch_norm, protocol
        try:
            yield
        finally:
            self.batch_norm = configured

    def predict(self, net_params: Params, task: Task) -> Tensor:
        """The net's predictions for the queries under ``batch_norm``, ``[queries, out]``."""
        batched = self.backend.batched
        return norm.predict(self.net, net_params, task.support.x, task.query.x, self.batch_norm, batched=batched)


class Adaptation(NamedTuple):
    """The adaptation to one support set.

    Attributes:
        net: The adapted net.
        support: The support set, on the module's device.
        outputs: The shape of the net's outputs for the support set; None if the method predicts by its own curve.
        metrics: The loss and the metric of the support set after 0, 1, ... steps; empty if they were not asked for.
    """

    net: AdaptedNet
    support: Examples
    outputs: list[int] | None
    metrics: list[dict[str, float]]


def adapt_to(
    module: Any,
    x: Any,
    y: Any,
    *,
    steps: int | None = None,
    class_names: Sequence[ClassName] | None = None,
    key: int | Tensor = 0,
    measure: bool = False,
) -> Adaptation:
    """Adapts a module to a support set, see `AdaptableModule.adapt`.

    Args:
        module: A `MetaModule`.
        x: Inputs of the support set.
        y: Its targets.
        steps: Adaptation steps; None for ``eval_inner_steps``.
        class_names: As in `AdaptableModule.adapt`.
        key: The random key of the task, for methods that draw mini-batches.
        measure: Whether to measure the support set after every step.
    """
    support, names = ready_support(module.net, x, y, class_names)
    key = torch.as_tensor(key, dtype=torch.int64, device=support.y.device)
    task = Task(support, support, torch.zeros_like(key), key)
    metrics: list[Metrics] = []
    with torch.no_grad(), differentiable_attention(twice=False), _as_evaluated(module, steps):
        _check_outputs(module, support, names)
        params, buffers = module.learnable(), dict(module.named_buffers())
        batch: Task = tree_map(lambda tensor: tensor[None], task)
        gathered = module.gather(params, buffers, batch, torch.full_like(key, module.global_step))
        if gathered is not batch:
            task = tree_map(lambda tensor: tensor[0], gathered)
        for adapted in module.curve(params, buffers, task):
            if measure:
                metrics.append(module.judge(adapted.params, adapted(), support.y))
        net, outputs = _adapted_net(module, adapted, support, names, task)
    _check_finite(net, outputs)
    numbers = [{name: float(value) for name, value in measured.items()} for measured in metrics]
    return Adaptation(net, support, outputs, numbers)


def _check_outputs(module: Any, support: Examples, names: tuple[ClassName, ...]) -> None:
    """Refuses a support set that the net has no inputs or outputs for, before anything is adapted."""
    try:
        outputs = call(module.net, {}, select(support.x, slice(0, 2)))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = {name: [*part.shape] for name, part in support.x.items()} if isinstance(support.x, dict) else None
        raise ConfigError(
            f"model.net takes no inputs of shape {shapes or [*support.x.shape]}: {first_line(error)}; expected inputs "
            "as in training"
        ) from error
    if not module.net_predicts:
        return
    if names and (outputs.ndim != 2 or outputs.shape[1] < len(names)):
        raise ConfigError(
            f"the support set has {len(names)} classes, but model.net has {outputs.shape[-1]} outputs, as many as "
            f"classes it was trained with; leave classes out, train with data.ways={len(names)}, or train a "
            "ProtoNetModule, which takes any number of classes"
        )
    if not names and outputs[:1].shape != support.y[:1].shape:
        raise ConfigError(
            f"the targets have the shape {[*support.y.shape]}, but model.net gives {[*outputs.shape[1:]]} for an "
            "example; expected targets as in training"
        )


def _adapted_net(
    module: Any, adapted: Prediction, support: Examples, names: tuple[ClassName, ...], task: Task
) -> tuple[AdaptedNet, list[int] | None]:
    """The net of a prediction, and the shape of its outputs for the support set."""
    plain = getattr(adapted.predict, "__func__", None) is AdaptableModule.predict
    with torch.inference_mode(mode=False), torch.no_grad():
        net = copy.deepcopy(module.net)
        own = dict(net.named_parameters())
        for name, tensor in (adapted.params if plain else strip_prefix(adapted.params, "net.")).items():
            if name in own:  # others belong to the loss
                own[name].copy_(tensor.clone())
        keep_statistics(net, support.x)
        outputs = call(net, {}, support.x)
        head = nn.Identity() if plain else module.adapted_head(outputs, support.y)
        if head is not None:
            return AdaptedNet(net.requires_grad_(requires_grad=False), head, names), [*outputs.shape]
        return AdaptedNet(WholeMethod(copy.deepcopy(module), task), nn.Identity(), names), None


def rebuild(
    module: Any, outputs: list[int] | None, support: Examples, names: Sequence[ClassName], state: dict[str, Tensor]
) -> AdaptedNet:
    """Builds an adapted net again from its tensors.

    Args:
        module: The method as its recipe builds it. It becomes a part of the net.
        outputs: The shape of the net's outputs for the support set, as `Adaptation` has it.
        support: The targets of the support set, and its inputs if ``outputs`` is None.
        names: The names of the classes.
        state: The ``state_dict`` of the adapted net.

    Raises:
        RuntimeError: If the tensors do not fit the net.
    """
    if outputs is None:
        key = torch.zeros((), dtype=torch.int64)
        module.batch_norm = "inductive"
        net = AdaptedNet(WholeMethod(module, Task(support, support, key, key)), nn.Identity(), names)
    else:
        layers = [name.removesuffix(".mean") for name in strip_prefix(state, "net.") if name.endswith(".mean")]
        own = strip_prefix(state, "net.")
        fix_statistics(module.net, {name: (own[f"{name}.mean"], own[f"{name}.var"]) for name in layers})
        like = next(iter(own.values()), torch.zeros(()))
        head = nn.Identity() if module.net_predicts else module.adapted_head(like.new_zeros(outputs), support.y)
        net = AdaptedNet(module.net.requires_grad_(requires_grad=False), head or nn.Identity(), names)
    net.load_state_dict(state)
    return net


def _check_finite(net: AdaptedNet, outputs: list[int] | None) -> None:
    tensors = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
    if outputs is not None and not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ConfigError(
            "adaptation diverged: the adapted net holds NaN or infinite numbers; take fewer steps, or check that the "
            "inputs are in the range of the training's"
        )


@contextmanager
def _as_evaluated(module: Any, steps: int | None) -> Iterator[None]:
    """Has a module adapt as in an evaluation with inductive batch norm for a while, in so many steps."""
    if steps is not None and (steps < 0 or not hasattr(module, "eval_inner_steps")):
        raise ConfigError(
            f"steps is {steps}; expected 0 or more"
            if steps < 0
            else f"steps is {steps}, but {type(module).__name__} has no model.eval_inner_steps; leave it out"
        )
    modes = [(part, part.training) for part in module.modules()]
    batch_norm, taken = module.batch_norm, getattr(module, "eval_inner_steps", None)
    module.eval()
    module.batch_norm = "inductive"
    if steps is not None:
        module.eval_inner_steps = steps
    try:
        yield
    finally:
        module.batch_norm = batch_norm
        if steps is not None:
            module.eval_inner_steps = taken
        for part, training in modes:
            part.training = training
