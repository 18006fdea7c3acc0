"""Exceptions whose text is for the person at the keyboard."""


class ConfigError(ValueError):
    """Says what was found, what was expected and which key to change.

    The command line prints its text alone, without a traceback, and ends with exit code 2. Raise it only where the
    text lets a reader mend the input without opening the source; anything else is a defect and keeps its traceback.
    """


class DivergedError(FloatingPointError):
    """The meta-gradient or the loss is not finite; raised before the weights are touched."""
