"""Adapted nets: what adaptation to one support set makes of a module, as a plain `nn.Module`."""

import itertools
from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meta_lightning.functional.adapt import last
from meta_lightning.functional.support_norm import start_forward
from meta_lightning.types import Examples, Inputs, Prediction, Task

ClassName = str | int
"""The name of a class, as the support set has it."""


class AdaptedNet(nn.Module):
    """A net that was adapted to one support set, see `MetaModule.adapt`.

    Batch norm uses the statistics of the support set, so a prediction does not depend on what it is made together with.
    The net is in eval mode, and its parameters require no gradient.

    Args:
        net: Maps inputs to predictions, or to features for the head.
        head: Maps the net's outputs to predictions.
        class_names: The names of the classes in the order of the outputs; empty for regression.

    Example:
        >>> net = AdaptedNet(nn.Linear(2, 3), nn.Identity(), ["cat", "dog"])  # the net has one output too many
        >>> net(torch.zeros(4, 2)).shape, net.class_names
        (torch.Size([4, 2]), ('cat', 'dog'))
    """

    def __init__(self, net: nn.Module, head: nn.Module, class_names: Sequence[ClassName] = ()) -> None:
        super().__init__()
        self.net = net
        self.head = head
        self.class_names = tuple(class_names)
        self.eval()

    def forward(self, x: Inputs) -> Tensor:
        """The predictions for inputs on any device and of any floating-point type.

        Args:
            x: ``[examples, *shape]``, preprocessed as in training; a dict is passed as keyword arguments.

        Returns:
            Logits ``[examples, classes]``, or values ``[examples, out]`` in regression, on the device of ``x``.
        """
        tensors = list(x.values()) if isinstance(x, dict) else [x]
        return self.predict(place_like(x, self)).to(tensors[0].device)

    def predict(self, x: Inputs) -> Tensor:
        """As `forward`, of inputs on the net's device and in its floating-point type: what an export holds."""
        start_forward(self.net)
        out = self.net(**x) if isinstance(x, dict) else self.net(x)
        if torch.is_autocast_enabled(out.device.type):  # distances are differences of large numbers
            with torch.autocast(out.device.type, enabled=False):
                out = self.head(out)
        else:
            out = self.head(out)
        return cast(Tensor, out[:, : len(self.class_names)] if self.class_names else out)


class WholeMethod(nn.Module):
    """Predicts by a method's own curve, for a method that does not say how its adapted predictor is a net.

    Args:
        module: The method, a `MetaModule` of its own. It adapts what requires a gradient.
        task: The support set, as a task.
    """

    y: Tensor

    def __init__(self, module: Any, task: Task) -> None:
        super().__init__()
        self.module = module
        self.index, self.key = task.index, task.key
        inputs = task.support.x if isinstance(task.support.x, dict) else {"": task.support.x}
        self.parts = [*inputs]
        for number, tensor in enumerate(inputs.values()):
            self.register_buffer(f"x{number}", tensor)
        self.register_buffer("y", task.support.y)
        self._adapted: Prediction | None = None

    def _apply(self, *args: Any, **options: Any) -> Self:
        self._adapted = None  # its tensors are not registered, and stay where they were
        super()._apply(*args, **options)  # type: ignore[no-untyped-call]  # torch's is not typed
        return self

    def _prediction(self) -> Prediction:
        if self._adapted is None:
            inputs = {part: getattr(self, f"x{number}") for number, part in enumerate(self.parts)}
            x = inputs[""] if self.parts == [""] else inputs
            device = self.y.device
            task = Task(Examples(x, self.y), Examples(x, None), self.index.to(device), self.key.to(device))
            curve = self.module.curve(self.module.learnable(), dict(self.module.named_buffers()), task)
            self._adapted = last(curve)
        return self._adapted

    def forward(self, *x: Tensor, **parts: Tensor) -> Tensor:
        """The predictions for queries ``[queries, *shape]``."""
        with torch.no_grad():
            adapted = self._prediction()
            task = adapted.task._replace(query=Examples(x[0] if x else parts, None))
            return adapted.predict(adapted.params, task)


def place_like(x: Inputs, net: nn.Module) -> Inputs:
    """The inputs on a net's device; floats in its floating-point type."""
    tensors = itertools.chain(net.parameters(), net.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is None:
        return x

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)

    placed: Inputs = tree_map(place, x)
    return placed
