"""Calls the constructors that a config names, so that what they raise reaches the user."""

from collections.abc import Callable
from contextvars import ContextVar
from inspect import Parameter, signature
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from meta_lightning.engine.user_code import find_place, summarize, unwrap
from meta_lightning.errors import ConfigError

# Whether the parser is calling: it keeps some constructors, such as those of optimizers, for later.
_parser_calls: ContextVar[bool] = ContextVar("_parser_calls", default=False)


class _Carrier(BaseException):
    """Carries the exception of a constructor past the parser, which turns other exceptions into text of its own."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def instantiate(parser: ArgumentParser, settings: Namespace, **options: Any) -> Namespace:
    """The parser's ``instantiate``, except that what a constructor raises is raised unchanged.

    Args:
        parser: The parser.
        settings: The parsed settings.
        **options: Further arguments of the parser's method.

    Raises:
        ConfigError: If a constructor of another package does not take its arguments.
    """
    token = _parser_calls.set(True)
    try:
        made: Namespace = parser.instantiate(settings, instantiators=[(_construct, object, True)], **options)
        return made
    except _Carrier as carrier:
        error = carrier.error
    except ValueError as failure:  # the parser itself calls functions
        cause = unwrap(failure)
        error = _as_config_error(None, cause) if isinstance(cause, Exception) else failure
    finally:
        _parser_calls.reset(token)
    raise error


def _construct(named: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        return named(*args, **kwargs)
    except Exception as error:
        if not _parser_calls.get():
            raise
        raise _Carrier(_as_config_error(named, error)) from error


def _as_config_error(named: Any, error: Exception) -> Exception:
    """What comes neither from the user's code nor from ours is a matter of the arguments, and so of the settings."""
    lacks = isinstance(error, TypeError) and "missing" in str(error) and "required" in str(error)
    if isinstance(error, ConfigError | OSError | MemoryError) or str(getattr(named, "__module__", "")).startswith(
        "meta_lightning."
    ):
        return error
    if find_place(error) is not None and not (lacks and (named is None or _is_open(named))):
        return error
    name = "model, data or trainer" if named is None else f"{named.__module__}.{named.__qualname__}"
    remedy = "; give it under init_args, or under dict_kwargs where a function takes it as **kwargs" if lacks else ""
    converted = ConfigError(f"{name} can't be made: {summarize(error)}{remedy}")
    converted.__cause__ = error
    return converted


def _is_open(named: Any) -> bool:
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in signature(named).parameters.values())
