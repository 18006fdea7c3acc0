"""Finds the line of a user's own code that an exception comes from."""

import linecache
import re
import sysconfig
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from types import CodeType
from typing import NamedTuple

from meta_lightning.console import printable

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PARSER = "jsonargparse"
_MAX_TEXT, _MAX_SOURCE = 400, 100

# A line of a traceback inside of a message: of a worker process, or of the compiler.
_MISCALLED = re.compile(r"([\w.<>]+)\(\) (?:takes|missing|got)")
_QUOTED_PLACE = re.compile(r'File "(.+?)", line (\d+)(?:, in (\S+))?')


class Place(NamedTuple):
    """A line of a user's code.

    Attributes:
        file: The file, relative to the working folder if it lies there.
        line: The number of the line.
        function: The qualified name of the function; empty at the level of the module.
        source: The text of the line.
    """

    file: str
    line: int
    function: str
    source: str

    @classmethod
    def of(cls, file: str, line: int, function: str) -> "Place":
        """The place in a file, with the text that stands there."""
        path, folder = Path(file), Path.cwd()
        source = linecache.getline(file, line).strip()
        shown = str(path.relative_to(folder)) if path.is_relative_to(folder) else file
        return cls(shown, line, "" if function == "<module>" else function, source)

    def __str__(self) -> str:
        """As in a traceback, on one line."""
        function = f", in {self.function}" if self.function else ""
        source = self.source if len(self.source) <= _MAX_SOURCE else f"{self.source[:_MAX_SOURCE]} ..."
        return f'File "{self.file}", line {self.line}{function}' + (f": {source}" if source else "")


def find_place(error: BaseException) -> Place | None:
    """The last line of a user's code that was running when an exception was raised.

    Code of the user is what belongs neither to this package nor to Python and its installed packages.

    Returns:
        The place; None if no code of the user was running.

    Example:
        >>> try:
        ...     {}["key"]
        ... except KeyError as error:
        ...     find_place(error)  # an example in a docstring has no file
    """
    places = [*_running(error), *_quoted(error)] or [*_miscalled(error)]
    return Place.of(*places[-1]) if places else None


def _running(error: BaseException) -> Iterator[tuple[str, int, str]]:
    for frame, line in walk_tb(error.__traceback__):
        if is_users_file(frame.f_code.co_filename):
            yield frame.f_code.co_filename, line, frame.f_code.co_qualname
    if isinstance(error, SyntaxError) and error.filename and is_users_file(error.filename):
        yield error.filename, error.lineno or 1, ""


def _quoted(error: BaseException) -> Iterator[tuple[str, int, str]]:
    """Places in the message: the user's code ran in a worker process, or was only read by the compiler."""
    for file, line, function in _QUOTED_PLACE.findall(str(error)):
        if is_users_file(file):
            yield file, int(line), function


def _miscalled(error: BaseException) -> Iterator[tuple[str, int, str]]:
    """The function that was called with arguments that it does not take, so that it did not run."""
    match = _MISCALLED.match(str(error)) if isinstance(error, TypeError) else None
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if match is None or not frames:
        return
    for value in [*frames[-1].f_locals.values()]:
        for candidate in (value, getattr(value, match[1].rpartition(".")[2], None)):
            code = getattr(getattr(candidate, "__func__", candidate), "__code__", None)
            if isinstance(code, CodeType) and code.co_qualname == match[1] and is_users_file(code.co_filename):
                yield code.co_filename, code.co_firstlineno, code.co_qualname


def is_users_file(name: str) -> bool:
    """Whether a file of Python code is neither of this package nor of Python and its installed packages.

    Example:
        >>> is_users_file("/home/me/nets.py"), is_users_file(torch.__file__), is_users_file("<string>")
        (True, False, False)
    """
    path = Path(name)
    if name.startswith("<") or path.is_relative_to(_PACKAGE) or {"site-packages", "dist-packages"} & {*path.parts}:
        return False
    return not any(path.is_relative_to(folder) for folder in _INSTALLED)


def unwrap(error: BaseException) -> BaseException:
    """The exception that the parser's own exceptions were made of; any other exception unchanged."""
    while _raised_by_parser(error) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _raised_by_parser(error: BaseException) -> bool:
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    return bool(files) and _PARSER in Path(files[-1]).parts


def summarize(error: BaseException) -> str:
    """Type and text of an exception on one line, as at the end of a traceback.

    Example:
        >>> summarize(KeyError("width"))
        "KeyError: 'width'"
    """
    text = str(error)
    if "Original Traceback" in text:  # of a worker process; its last line has type and text
        return printable(text.strip().rpartition("\n")[2].strip())
    if isinstance(error, SyntaxError):
        text = error.msg
    if isinstance(error, AttributeError):
        text += _suggestion(error)
    text = " ".join(text.split())
    text = text if text.isprintable() else ascii(text)[1:-1]
    text = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _suggestion(error: AttributeError) -> str:
    """Python's own suggestion of an attribute, which a traceback ends with, but which is no part of the text."""
    try:
        close = get_close_matches(str(error.name), dir(error.obj), n=1, cutoff=0.75)
    except Exception:  # no name, or an object that was not constructed can't list its attributes
        return ""
    return f". Did you mean: {close[0]!r}?" if close else ""


def explain_user_error(error: BaseException) -> str | None:
    """Two lines on an exception that a user's code raised: its type and text, and where it comes from.

    Args:
        error: The exception. One that the parser made of it is looked through.

    Returns:
        The lines; None for an exception that does not come from a user's code.
    """
    cause = unwrap(error)
    place = find_place(cause)
    return None if place is None else f"{summarize(cause)}\n{pointer(place)}"


def point_to_cause(error: BaseException) -> str:
    """A line break and the line of the user's code that an error of ours was made of; empty if there is none."""
    cause = error.__cause__
    while cause is not None:
        if place := find_place(unwrap(cause)):
            return f"\n{pointer(place)}"
        cause = cause.__cause__
    return ""


def pointer(place: Place) -> str:
    """The second line of a message."""
    return f"  {place} (--debug shows the whole traceback)"
