"""Inner update rules: they turn gradients of the support loss into updates of the parameters."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from meta_lightning.types import Params, Rates, Rule


def sgd() -> Rule:
    """Gradient descent, ``-rate * gradient``, the inner rule of MAML (Finn et al. 2017, equation 1).

    Example:
        >>> rule, params = sgd(), {"w": torch.tensor(1.0)}
        >>> updates, _ = rule.update({"w": torch.tensor(2.0)}, rule.init(params), params, step=0, rates=0.1)
        >>> updates["w"]
        tensor(-0.2000)
    """
    return Rule(_no_state, _sgd_update)


class AdamState(NamedTuple):
    """The state of Adam between two steps.

    Attributes:
        steps: The number of steps taken, a scalar int64 tensor.
        first: Running means of the gradients, by name; empty if ``beta1`` is 0.
        second: Running means of the squared gradients, by name.
    """

    steps: Tensor
    first: Params
    second: Params


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Rule:
    """Adam (Kingma & Ba 2015, algorithm 1), differentiable to any order. Its state is an `AdamState`.

    A second moment is 0 where all gradients so far are 0. The square root has an infinite derivative there, and a unit
    that never fires would turn the meta-gradient into NaN, so the root is treated as a constant at 0.

    Args:
        beta1: Decay rate of the first moments. With 0 no first moments are kept, as in Reptile's inner loop.
        beta2: Decay rate of the second moments.
        eps: Added to the square root of the second moments.

    Example:
        The first step moves every parameter by the rate, whatever the size of its gradient.

        >>> rule, params = adam(), {"w": torch.tensor(1.0)}
        >>> updates, state = rule.update({"w": torch.tensor(25.0)}, rule.init(params), params, step=0, rates=0.1)
        >>> updates["w"]
        tensor(-0.1000)
    """

    def init(params: Params) -> AdamState:
        zeros = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
        steps = torch.zeros((), dtype=torch.int64, device=next(iter(params.values())).device if params else None)
        return AdamState(steps, zeros if beta1 else {}, zeros)

    def update(grads: Params, state: AdamState, params: Params, step: int, rates: Rates) -> tuple[Params, AdamState]:
        taken = state.steps + 1
        first = {name: beta1 * state.first[name] + (1 - beta1) * grads[name] for name in state.first}
        second = {name: beta2 * state.second[name] + (1 - beta2) * grad.square() for name, grad in grads.items()}

        def change(name: str) -> Tensor:
            count = taken.to(torch.promote_types(grads[name].dtype, torch.float32))
            mean = first[name] / _one_minus_power(beta1, count) if beta1 else grads[name]
            return -_rate(rates, name) * mean / (_root(second[name]) / _one_minus_power(beta2, count).sqrt() + eps)

        return {name: change(name) for name in grads}, AdamState(taken, first, second)

    return Rule(init, update)


def _one_minus_power(beta: float, count: Tensor) -> Tensor:
    """``1 - beta ** count``, without the cancellation that loses half the digits of a float32 at small counts."""
    return -torch.expm1(count * math.log(beta))


def _root(square: Tensor) -> Tensor:
    """The square root, with a derivative of 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _rate(rates: Rates, name: str) -> float | Tensor:
    return rates if isinstance(rates, (float, int, Tensor)) else rates[name]


def _no_state(params: Params) -> None:
    """Gradient descent has no state."""


def _sgd_update(grads: Params, state: None, params: Params, step: int, rates: Rates) -> tuple[Params, None]:
    return {name: -_rate(rates, name) * grad for name, grad in grads.items()}, state
