"""What meta-gradients can't be made with: said once, for the command line and for Python."""

_PRECISIONS = ("32", "32-true", "64", "64-true", "bf16", "bf16-mixed")
_SHARDED = ("fsdp", "deepspeed", "modelparallel")


def precision_problem(precision: object) -> str | None:
    """What is wrong with a precision of the trainer; None if nothing is."""
    given = str(precision)
    if precision is None or given in _PRECISIONS:
        return None
    reason = "inner gradients are not scaled and vanish in half precision"
    if given.startswith("bf16"):
        reason = "what is added to the weights is lost to rounding"
    return f"trainer.precision is {given}; {reason}: use bf16-mixed or 32-true"


def strategy_problem(strategy: object) -> str | None:
    """What is wrong with a strategy, by the name of its class or its alias; None if nothing is."""
    if not any(sharded in str(strategy).lower() for sharded in _SHARDED):
        return None
    reason = "it splits parameters over processes, and meta-gradients need them whole"
    return f"trainer.strategy is {strategy}; {reason}: use ddp"
