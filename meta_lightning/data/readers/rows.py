"""Reads CSV and Parquet files into columns, and names the row and the column of what is wrong.

CSV is read by Python's own `csv`, because it knows the row of every value, is there without another package, and reads
100,000 rows of 13 columns in about a second. Parquet is read by pyarrow.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meta_lightning.console import first_line, printable
from meta_lightning.errors import ConfigError

Column = list[str] | np.ndarray
"""The values of a column: texts as they stand in a CSV file, or float64 numbers of a Parquet file."""

_DELIMITERS = ",;\t"
_PARQUET = b"PAR1"  # the first bytes of every such file
_MAX_NAMES = 20  # a message lists at most this many columns

# What spreadsheets and data frames write where there is no number.
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?", ".", "#n/a", "<na>"}


class Rows:
    r"""The rows of a file, by column.

    Args:
        path: The file, for messages.
        columns: The values of each column.
        numbers: The number of each row in the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "people.csv"
        ...     _ = path.write_text("name,age\nAda,36\nAlan,41\n")
        ...     rows = Rows.read(path)
        >>> rows.texts("name"), rows.values("age").tolist(), rows.numbers
        (['Ada', 'Alan'], [36.0, 41.0], [2, 3])
    """

    def __init__(self, path: Path, columns: dict[str, Column], numbers: Sequence[int]) -> None:
        self.path = path
        self.columns = columns
        self.numbers = [*numbers]
        self._parsed: dict[str, np.ndarray | None] = {}

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.numbers)

    @classmethod
    def read(cls, path: Path) -> "Rows":
        """Reads a CSV file (UTF-8; comma, semicolon or tab) or a Parquet file.

        Raises:
            ConfigError: If the file can't be read, is not such a file, or has no rows or no names of columns.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} can't be read ({error.strerror}); expected a CSV or Parquet file") from error
        columns, numbers = _read_parquet(path) if content[:4] == _PARQUET else _read_csv(path, content)
        if not numbers:
            raise ConfigError(f"{path} has names of columns but no rows; expected one row for each example")
        return cls(path, columns, numbers)

    def need(self, name: str, key: str = "") -> None:
        """Checks that there is a column.

        Args:
            name: The column.
            key: The setting that names it; empty if none does.

        Raises:
            ConfigError: Lists the columns there are.
        """
        if name in self.columns:
            return
        names = [printable(column) for column in self.columns]
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        remedy = f": correct {key}" if key else ""
        raise ConfigError(
            f"{self.path} has no column {printable(name)!r}; it has {', '.join(names[:_MAX_NAMES])}{more}{remedy}"
        )

    def holds_numbers(self, name: str) -> bool:
        """Whether most values of a column are numbers."""
        if self._parse(name) is not None:
            return True
        given = [value for value in self.columns[name] if value.lower() not in _MISSING]
        return sum(map(_is_number, given)) * 2 > len(given)

    def _parse(self, name: str) -> np.ndarray | None:
        """The numbers of a column; None if some value is a text. They are kept, as this is most of the work."""
        if name not in self._parsed:
            column = self.columns[name]
            try:
                self._parsed[name] = np.fromiter(map(float, column), np.float64, len(column))
            except ValueError:
                self._parsed[name] = None
        return self._parsed[name]

    def values(self, name: str, remedy: str = "correct it") -> np.ndarray:
        """The numbers of a column, float64 ``[rows]``.

        Args:
            name: The column.
            remedy: What a person can do about a text; ends the message.

        Raises:
            ConfigError: Names the first row that holds a text, a missing or an infinite value.
        """
        column = self.columns[name]
        parsed = self._parse(name)
        values = np.array([_number(value) for value in column]) if parsed is None else parsed
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            row = int(wrong[0])
            value = column[row] if isinstance(column, list) else values[row]
            more = f" (and {len(wrong) - 1} more rows)" if len(wrong) > 1 else ""
            raise ConfigError(f"{self._place(row, name)} {_problem(value, remedy)}{more}")
        return values

    def texts(self, name: str) -> list[str]:
        """The texts of a column; whole numbers of a Parquet file without a decimal point.

        Raises:
            ConfigError: Names the first row without a value.
        """
        column = self.columns[name]
        if isinstance(column, np.ndarray):
            # `values` refuses missing numbers.
            return [f"{value:.0f}" if value.is_integer() else repr(value) for value in self.values(name).tolist()]
        if missing := column.count(""):
            more = f" (and {missing - 1} more rows)" if missing > 1 else ""
            raise ConfigError(f"{self._place(column.index(''), name)} {_problem('', '')}{more}")
        return column

    def _place(self, row: int, name: str) -> str:
        return f"{self.path}: row {self.numbers[row]}, column {printable(name)!r}"


def _is_number(value: str) -> bool:
    return not math.isnan(_number(value))


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _problem(value: Any, remedy: str) -> str:
    text = str(value)
    if text.lower() in _MISSING:
        shown = f" ({text!r})" if text else ""
        return f"has no value{shown}; fill it in, remove the row, or leave out the column"
    if isinstance(value, float) or _is_number(text):
        return f"is {printable(text)}; expected a finite number: correct it, or remove the row"
    comma = ", with a decimal point" if _is_number(text.replace(",", ".")) else ""
    return f"is {printable(text)!r}, but most of the column are numbers; expected a number{comma}: {remedy}"


def _read_csv(path: Path, content: bytes) -> tuple[dict[str, Column], list[int]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}: line {line} is not UTF-8 (byte {error.object[error.start]:#04x}); save the file as UTF-8"
        ) from error
    if not text.strip():
        raise ConfigError(f"{path} is empty; expected names of columns, and one row for each example")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), skipinitialspace=True, strict=True)
    records: list[list[str]] = []
    try:
        records.extend(reader)
    except csv.Error as error:
        raise ConfigError(f"{path}: line {reader.line_num} is not CSV ({error}); correct its quotes") from error
    # Rows are counted as a spreadsheet counts them: empty ones too, with the names of the columns in the first.
    numbers = [number for number, record in enumerate(records, 1) if any(record)]
    header, *rows = [records[number - 1] for number in numbers]
    names = [name.strip() for name in header]
    _check_names(path, names)
    uneven = next((number for number, row in enumerate(rows, 1) if len(row) != len(names)), None)
    if uneven is not None:
        raise ConfigError(
            f"{path}: row {numbers[uneven]} has {len(rows[uneven - 1])} values, but there are {len(names)} columns; "
            "correct the row, or put a value that contains the delimiter in quotes"
        )
    columns: dict[str, Column] = {
        name: [*map(str.strip, column)] for name, column in zip(names, zip(*rows, strict=True), strict=False)
    }
    return columns or {name: [] for name in names}, numbers[1:]


def _delimiter(text: str) -> str:
    """The delimiter that divides the first line into most names."""
    header = text.lstrip().partition("\n")[0]
    return max(_DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _check_names(path: Path, names: list[str]) -> None:
    """Refuses columns without a name and two of one name, and a file that begins with values."""
    if all(map(_is_number, names)):
        raise ConfigError(
            f"{path} begins with numbers ({printable(', '.join(names[:5]))}); expected the names of the columns in "
            "its first row"
        )
    if "" in names:
        raise ConfigError(
            f"{path}: column {names.index('') + 1} has no name; name it, or write the file without it (pandas: "
            "to_csv(..., index=False))"
        )
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{path} has two columns of the name {printable(repeated[0])!r}; rename one of them")


def _read_parquet(path: Path) -> tuple[dict[str, Column], list[int]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{path} is a Parquet file, which needs pyarrow: pip install 'meta_lightning[table]', or save the data as "
            "CSV"
        ) from error
    try:
        table = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is a broken Parquet file ({first_line(error)}); write it again") from error
    names = [name for name in table.column_names if not name.startswith("__index_level_")]  # pandas' index
    _check_names(path, names)
    return {name: _column(path, name, table.column(name)) for name in names}, [*range(1, table.num_rows + 1)]


def _column(path: Path, name: str, column: Any) -> Column:
    from pyarrow import types

    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        numbers: np.ndarray = column.cast("float64").to_numpy()  # missing values become NaN
        return numbers
    if types.is_nested(kind) or types.is_binary(kind):
        raise ConfigError(f"{path}: column {printable(name)!r} holds {kind}; expected numbers or texts: leave it out")
    return ["" if value is None else str(value).strip() for value in column.to_pylist()]
