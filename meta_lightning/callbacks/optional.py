"""Work that a run can do without."""

from collections.abc import Iterator
from contextlib import contextmanager

from meta_lightning.console import first_line, notify


class OptionalWork:
    """Keeps the errors of work that a run can do without from ending the run.

    Args:
        name: What the work is, for the warning.
        remedy: How to do without it, for the warning.

    Attributes:
        failed: Whether it failed once. It is not to be tried again.

    Example:
        >>> pictures = OptionalWork("pictures", "no pictures: figures.every_n_validations 0")
        >>> with pictures.attempt():
        ...     raise RuntimeError("no font")
        Warning: pictures can't be made (RuntimeError: no font), and are left out from here on; the run goes on ...
        >>> pictures.failed
        True
    """

    def __init__(self, name: str, remedy: str) -> None:
        self.failed = False
        self._name = name
        self._remedy = remedy

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Turns an error into a warning."""
        try:
            yield
        except Exception as error:  # a user's net and data are drawn, and fonts and files are read: any may fail
            self.failed = True
            notify(
                f"Warning: {self._name} can't be made ({type(error).__name__}: {first_line(error)}), and are left out "
                f"from here on; the run goes on ({self._remedy})"
            )
