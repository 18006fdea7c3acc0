"""All output to the terminal, and text for messages."""

import reprlib
import sys
from collections.abc import Iterable
from typing import TypeVar

from lightning_utilities.core.rank_zero import rank_zero_only
from rich.console import Console, RenderableType
from rich.progress import track

T = TypeVar("T")

_MAX_CHARACTERS = 200
_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 120


@rank_zero_only
def notify(text: str) -> None:
    """Prints a message, once over all processes."""
    print(text)


@rank_zero_only
def show(content: RenderableType) -> None:
    """Prints a table or another rich renderable, once over all processes."""
    Console().print(content)


def complain(text: str, *, everywhere: bool = False) -> None:
    """Prints an error on the standard error stream, once over all processes.

    Args:
        text: The error.
        everywhere: Whether the other processes print it too, each with its number.
    """
    rank = getattr(rank_zero_only, "rank", 0)
    if rank == 0 or everywhere:
        print(f"error{f' in process {rank}' if rank else ''}: {text}", file=sys.stderr)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterates with a progress bar, which vanishes at the end and is drawn only on a terminal."""
    return track(items, description, total=total, transient=True, disable=not Console().is_terminal)


def printable(value: object) -> str:
    r"""Renders a value from an untrusted file for a message: one line, no control characters, limited length.

    Example:
        >>> printable("two\nlines")
        "'two\\nlines'"
    """
    text = value if isinstance(value, str) else " ".join(_SHORT.repr(value).split())
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its type if the message is empty."""
    return printable(str(error).partition("\n")[0] or type(error).__name__)
