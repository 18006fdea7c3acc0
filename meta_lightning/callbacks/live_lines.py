"""Lines at the bottom of a terminal that stay there while other output scrolls above them."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.control import Control
from rich.segment import ControlType, SegmentLines

# Seconds after which a line that was never ended, such as the prompt of a debugger, is taken as finished.
_UNFINISHED_LINE_S = 1.0


class LiveLines:
    """Draws lines below everything else that the process prints to its terminal.

    While the lines are shown, text on the standard streams and from handlers of `logging` is printed above them, byte
    for byte. There is no thread: lines change when `draw` is called. Where the standard output is no terminal, nothing
    is drawn, and the streams stay as they are.

    Example:
        >>> lines = LiveLines()
        >>> lines.is_possible  # the output of this example is no terminal
        False
        >>> lines.draw("30 of 100")
    """

    def __init__(self) -> None:
        self._stream: TextIO = sys.stdout
        self._console = Console(file=self._stream)
        self._lock = threading.RLock()
        self._height = 0
        self._written = 0.0  # when other text without an end of line was written; 0 after a whole line
        self._above: list[_Above] = []
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []

    @property
    def is_possible(self) -> bool:
        """Whether the standard output is a terminal whose cursor can move. Colours that are asked for make it none."""
        return self._stream.isatty() and not self._console.is_dumb_terminal

    def draw(self, content: RenderableType) -> None:
        """Replaces the lines."""
        if not self.is_possible:
            return
        with self._lock:
            self._divert()
            if self._written and time.monotonic() - self._written < _UNFINISHED_LINE_S:
                return
            if self._written:
                self._stream.write("\n")
                self._written = 0.0
            options = self._console.options.update(width=max(self._console.width - 1, 1))
            rendered = self._console.render_lines(content, options, pad=False)
            with self._console:  # writes at its end, at once
                self._erase()
                self._console.print(SegmentLines(rendered, new_lines=True), end="")
            self._height = len(rendered)

    def hide(self) -> None:
        """Removes the lines until `draw` is called again."""
        with self._lock:
            if self._height:
                self._erase()
                self._stream.flush()
            self._height = 0

    def leave(self) -> None:
        """Leaves the lines where they are, and gives the streams back."""
        with self._lock:
            self._height, self._written = 0, 0.0
            for name in ("stdout", "stderr"):
                if (current := getattr(sys, name)) in self._above:
                    setattr(sys, name, current.stream)
            for handler, stream in self._handlers:
                if handler.stream in self._above:
                    handler.setStream(stream)
            self._above, self._handlers = [], []

    def print_above(self, stream: TextIO, text: str) -> int:
        """Writes to a stream of the terminal without mixing the text with the lines."""
        with self._lock:
            if self._above:
                self.hide()
                self._written = 0.0 if text.endswith("\n") else time.monotonic() if text else self._written
            count = stream.write(text)
            if self._above:
                stream.flush()
            return count

    def _erase(self) -> None:
        if self._height:
            up = [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * self._height
            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))

    def _divert(self) -> None:
        """Has all that is printed pass through `print_above`."""
        if self._above:
            return
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():
                self._above.append(_Above(stream, self))
                setattr(sys, name, self._above[-1])
        for handler in _stream_handlers():  # these keep the stream that they were made with
            for above in self._above:
                if handler.stream is above.stream:
                    self._handlers.append((handler, handler.setStream(above)))


class _Above:
    """A stream whose text appears above the lines."""

    def __init__(self, stream: TextIO, lines: LiveLines) -> None:
        self.stream = stream
        self._lines = lines

    def write(self, text: str) -> int:
        return self._lines.print_above(self.stream, text)

    def writelines(self, texts: list[str]) -> None:
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _stream_handlers() -> Iterator[logging.StreamHandler[Any]]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", []):  # a name in between has no logger, and no handlers
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                yield handler
