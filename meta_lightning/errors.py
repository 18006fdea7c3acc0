"""Exceptions whose text is for the person at the keyboard."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 120


class ConfigError(ValueError):
    """Says what was found, what was expected and which key to change.

    The command line prints its text alone, without a traceback, and ends with exit code 2. Raise it only where the
    text lets a reader mend the input without opening the source; anything else is a defect and keeps its traceback.
    """


class DivergedError(FloatingPointError):
    """The meta-gradient or the loss is not finite.

    Args:
        step: The meta-step at which it was seen.
        tasks: The numbers of the tasks at fault.
        every: Meta-steps between two checks; with 1 the error comes before the weights are touched.
    """

    def __init__(self, step: int, tasks: list[int], every: int = 1) -> None:
        left = (
            "the weights were left as they are"
            if every == 1
            else f"model.check_finite_every is {every}, so the weights and later checkpoints may be spoilt"
        )
        super().__init__(
            f"meta-step {step}: the loss or the meta-gradient is not finite (tasks {tasks}); {left}. "
            "Lower model.inner_lr or the optimizer's lr, or set model.grad_clip"
        )


def shown(value: object) -> str:
    """A value out of somebody's file, for a message: one line, without control characters, not too long."""
    text = value if isinstance(value, str) else " ".join(_SHORT.repr(value).split())
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 200 else f"{text[:200]}..."


def first_line(error: Exception) -> str:
    """What an exception says, in a line."""
    return shown(str(error).partition("\n")[0] or type(error).__name__)
