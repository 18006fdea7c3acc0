"""Prepares the rows of a user's own table as those of the training were."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from meta_lightning.console import printable
from meta_lightning.data.readers.base import NewExamples, Reader
from meta_lightning.data.readers.columns import Columns, Scale
from meta_lightning.data.readers.rows import Rows
from meta_lightning.errors import ConfigError


class TableReader(Reader):
    r"""Reads rows of CSV and Parquet files, and prepares them by the statistics of the training rows.

    Its arguments are plain data, so that a checkpoint can hold them. `arguments` makes them.

    Args:
        numbers: The columns of numbers.
        means: Their means in the training rows.
        deviations: Their standard deviations there.
        categorical: The columns of categories, which become one-hot.
        categories: The categories of each of them.
        target: The column of targets: classes, or values.
        values: Whether the targets are values (regression).
        target_mean: The mean of the values in the training rows.
        target_deviation: Their standard deviation there.
        task: The column of tasks; empty if there is none.

    Example:
        >>> import tempfile
        >>> reader = TableReader(["age"], [40.0], [10.0], ["sex"], [["f", "m"]], "weight", True, 70.0, 20.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "people.csv"
        ...     _ = path.write_text("age,sex,weight\n50,f,60\n")
        ...     new = reader.read(path, labelled=True)
        >>> new.x, new.y, new.ids
        (tensor([[1., 1., 0.]]), tensor([[-0.5000]]), ['2'])
        >>> reader.denormalise(new.y)
        tensor([[60.]])
    """

    id_name: ClassVar[str] = "row"

    def __init__(
        self,
        numbers: list[str],
        means: list[float],
        deviations: list[float],
        categorical: list[str],
        categories: list[list[str]],
        target: str,
        values: bool,
        target_mean: float = 0.0,
        target_deviation: float = 1.0,
        task: str = "",
    ) -> None:
        scales = [Scale(*scale) for scale in zip(means, deviations, strict=True)]
        self.columns = Columns(numbers, scales, categorical, categories)
        self.target = target
        self.target_scale = Scale(target_mean, target_deviation)
        self._values = values
        self._task = task

    @staticmethod
    def arguments(columns: Columns, target: str, scale: Scale | None, task: str | None) -> dict[str, Any]:
        """The arguments of the constructor.

        Args:
            columns: How inputs are made.
            target: The column of targets.
            scale: What standardises the targets; None for classes.
            task: The column of tasks, if there is one.
        """
        mean, deviation = scale or Scale(0.0, 1.0)
        return {
            "numbers": columns.numbers,
            "means": [part.mean for part in columns.scales],
            "deviations": [part.deviation for part in columns.scales],
            "categorical": columns.categorical,
            "categories": columns.categories,
            "target": target,
            "values": scale is not None,
            "target_mean": mean,
            "target_deviation": deviation,
            "task": task or "",
        }

    def read(self, path: Path, *, labelled: bool) -> NewExamples:
        """Reads the rows of a CSV or Parquet file. Columns that the training did not use are ignored.

        Raises:
            ConfigError: If a column is missing, a value is missing, text or infinite, or if labelled rows are of
                several tasks.
        """
        rows = Rows.read(path)
        ids = [str(number) for number in rows.numbers]
        if not labelled:
            return NewExamples(self.columns.apply(rows), None, None, ids)
        rows.need(self.target)
        if self._task in rows.columns and len(tasks := {*rows.texts(self._task)}) > 1:
            raise ConfigError(
                f"{path} has rows of {len(tasks)} tasks in column {printable(self._task)!r}; expected one task: leave "
                "in the rows of one, or leave out the column if they are of one"
            )
        x = self.columns.apply(rows)
        if self._values:
            scaled = self.target_scale.apply(rows.values(self.target))
            return NewExamples(x, torch.from_numpy(scaled[:, None].astype(np.float32)), None, ids)
        labels = rows.texts(self.target)
        names = sort_names(labels)
        numbers = {name: number for number, name in enumerate(names)}
        return NewExamples(x, torch.tensor([numbers[label] for label in labels]), names, ids)

    def denormalise(self, predictions: Tensor) -> Tensor:
        """Turns predicted values into the unit of the target column; logits stay as they are."""
        if not self._values:
            return predictions
        return predictions * self.target_scale.deviation + self.target_scale.mean


def sort_names(names: list[str]) -> list[str]:
    """The distinct names of classes, in the order of numbers if all of them are numbers, else of the alphabet.

    Example:
        >>> sort_names(["10", "9", "9"]), sort_names(["b", "10", "9"])
        (['9', '10'], ['10', '9', 'b'])
    """
    distinct = sorted({*names})
    return sorted(distinct, key=int) if all(name.lstrip("-").isdecimal() for name in distinct) else distinct
