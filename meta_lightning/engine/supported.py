"""The settings of a trainer that do not support meta-gradients, for the command line and for Python."""

_PRECISIONS = ("32", "32-true", "64", "64-true", "bf16", "bf16-mixed")
_SHARDED = ("fsdp", "deepspeed", "modelparallel")


def precision_problem(precision: object) -> str | None:
    """The message that refuses a precision of the trainer; None if the precision is supported."""
    name = str(precision)
    if precision is None or name in _PRECISIONS:
        return None
    reason = "inner gradients are not scaled and vanish in half precision"
    if name.startswith("bf16"):
        reason = "updates of the weights are lost to rounding"
    return f"trainer.precision is {name}; {reason}: use bf16-mixed or 32-true"


def strategy_problem(strategy: object) -> str | None:
    """The message that refuses a strategy, given by its class name or alias; None if the strategy is supported."""
    if not any(sharded in str(strategy).lower() for sharded in _SHARDED):
        return None
    reason = "it splits parameters over processes, and meta-gradients need them whole"
    return f"trainer.strategy is {strategy}; {reason}: use ddp"
