"""Inner update rules: how a gradient of the support loss becomes a change of the parameters."""

from torch import Tensor

from meta_lightning.types import Params, Rates, Rule


def sgd() -> Rule:
    """Gradient descent, ``-rate * gradient``: the inner rule of MAML (Finn et al. 2017, equation 1)."""
    return Rule(_no_state, _sgd_update)


def _rate(rates: Rates, name: str) -> float | Tensor:
    return rates if isinstance(rates, (float, int, Tensor)) else rates[name]


def _no_state(params: Params) -> None:
    """Gradient descent carries nothing from step to step."""


def _sgd_update(grads: Params, state: None, params: Params, step: int, rates: Rates) -> tuple[Params, None]:
    return {name: -_rate(rates, name) * grad for name, grad in grads.items()}, state
