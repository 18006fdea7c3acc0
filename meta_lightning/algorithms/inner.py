"""Settings that the inner loops of several algorithms share."""

import math

from meta_lightning.errors import ConfigError


def check_steps(inner_steps: int, eval_inner_steps: int | None) -> tuple[int, int]:
    """The adaptation steps of training and of evaluation, which null makes the same.

    Raises:
        ConfigError: If one is negative.
    """
    steps = {"inner_steps": inner_steps, "eval_inner_steps": eval_inner_steps}
    for key, value in steps.items():
        if value is not None and value < 0:
            raise ConfigError(f"model.{key} is {value}; expected 0 or more")
    return inner_steps, inner_steps if eval_inner_steps is None else eval_inner_steps


def check_rate(inner_lr: float) -> float:
    """The inner rate.

    Raises:
        ConfigError: If it is negative or not finite.
    """
    if not 0 <= inner_lr < math.inf:
        raise ConfigError(f"model.inner_lr is {inner_lr}; expected a finite number from 0")
    return inner_lr
