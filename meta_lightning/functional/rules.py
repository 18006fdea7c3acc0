"""Inner update rules: how a gradient of the support loss becomes a change of the parameters."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from meta_lightning.types import Params, Rates, Rule


def sgd() -> Rule:
    """Gradient descent, ``-rate * gradient``: the inner rule of MAML (Finn et al. 2017, equation 1)."""
    return Rule(_no_state, _sgd_update)


class AdamState(NamedTuple):
    """What Adam carries from step to step.

    Attributes:
        steps: Steps taken so far, a scalar integer tensor.
        first: Running means of the gradients by name; empty where ``beta1`` is 0.
        second: Running means of their squares, by name.
    """

    steps: Tensor
    first: Params
    second: Params


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Rule:
    """Adam (Kingma & Ba 2015, algorithm 1), differentiable to any order; its state is an `AdamState`.

    Where a second moment is 0, and with it every gradient so far, its root is taken for a constant: the root's own
    derivative is infinite there, and a unit that never fires would turn a meta-gradient into NaN.

    Args:
        beta1: Decay of the first moments; 0 for none, as Reptile's inner loop.
        beta2: Decay of the second moments.
        eps: Added to the root of the second moments.
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
    """``1 - beta ** count``, without the cancellation that costs a float32 half its digits at small counts."""
    return -torch.expm1(count * math.log(beta))


def _root(square: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _rate(rates: Rates, name: str) -> float | Tensor:
    return rates if isinstance(rates, (float, int, Tensor)) else rates[name]


def _no_state(params: Params) -> None:
    """Gradient descent carries nothing from step to step."""


def _sgd_update(grads: Params, state: None, params: Params, step: int, rates: Rates) -> tuple[Params, None]:
    return {name: -_rate(rates, name) * grad for name, grad in grads.items()}, state
