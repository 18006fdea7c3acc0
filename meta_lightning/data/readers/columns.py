"""Turns the columns of a table into numbers for a net: standardised, or one-hot."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from meta_lightning.console import notify, printable
from meta_lightning.data.readers.rows import Rows
from meta_lightning.errors import ConfigError

# More categories are the sign of a column of names, dates or numbers of rows, which tell a net nothing.
_MAX_CATEGORIES = 100
_MAX_NAMES = 3


class Scale(NamedTuple):
    """What standardises numbers.

    Attributes:
        mean: Their mean.
        deviation: Their standard deviation; 1 if they are all the same.
    """

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Scale":
        """The scale of numbers, of which there is at least one."""
        mean, deviation = float(values.mean()), float(values.std())
        # The deviation of equal numbers is that of rounding.
        return cls(mean, deviation if deviation > 1e-12 * abs(mean) else 1.0)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The numbers in standard deviations from the mean."""
        scaled: np.ndarray = (values - self.mean) / self.deviation
        return scaled


class Columns(NamedTuple):
    """How the inputs of a net are made from columns: numbers first, then one number for each category.

    Attributes:
        numbers: The columns of numbers.
        scales: The scale of each of them.
        categorical: The columns of categories.
        categories: The categories of each of them.
    """

    numbers: list[str]
    scales: list[Scale]
    categorical: list[str]
    categories: list[list[str]]

    @property
    def width(self) -> int:
        """The number of inputs."""
        return len(self.numbers) + sum(map(len, self.categories))

    @classmethod
    def fit(cls, rows: Rows, features: Sequence[str], categorical: Sequence[str], training: np.ndarray) -> "Columns":
        """Finds out what the columns hold, and takes scales and categories from the training rows.

        Args:
            rows: All rows. A column holds numbers if most of its values are numbers.
            features: The columns that the inputs are made of.
            categorical: Columns of categories, even if they hold numbers.
            training: The positions of the training rows.

        Raises:
            ConfigError: If a value is missing, is no finite number, or if a column has too many categories.
        """
        words = [name for name in features if name in categorical or not rows.holds_numbers(name)]
        numbers = [name for name in features if name not in words]
        remedy = "correct it, or list the column under data.source.categorical"
        scales = [Scale.of(rows.values(name, remedy)[training]) for name in numbers]
        return cls(numbers, scales, words, [_categories(rows, name, training) for name in words])

    def apply(self, rows: Rows) -> Tensor:
        """The inputs of a net, float32 ``[rows, width]``. A category that the training lacks is all zeros.

        Raises:
            ConfigError: If a column is missing, or a value is missing or no finite number.
        """
        for name in (*self.numbers, *self.categorical):
            rows.need(name)
        parts = [scale.apply(rows.values(name))[:, None] for name, scale in zip(self.numbers, self.scales, strict=True)]
        for name, known in zip(self.categorical, self.categories, strict=True):
            parts.append(_one_hot(rows, name, known))
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


def _categories(rows: Rows, name: str, training: np.ndarray) -> list[str]:
    texts = rows.texts(name)
    categories = sorted({texts[row] for row in training.tolist()})
    if len(categories) > _MAX_CATEGORIES:
        raise ConfigError(
            f"{rows.path}: column {printable(name)!r} has {len(categories)} different texts in {len(training)} rows, "
            f"such as {printable(categories[0])!r}; expected numbers, or at most {_MAX_CATEGORIES} categories: leave "
            "the column out of data.source.features, or join rare categories"
        )
    return categories


def _one_hot(rows: Rows, name: str, known: list[str]) -> np.ndarray:
    places = {category: place for place, category in enumerate(known)}
    found = np.array([places.get(text, -1) for text in rows.texts(name)])
    if (new := np.flatnonzero(found < 0)).size:
        texts = dict.fromkeys(rows.texts(name)[row] for row in new.tolist())
        listed = ", ".join(map(printable, [*texts][:_MAX_NAMES])) + ", ..." * (len(texts) > _MAX_NAMES)
        notify(
            f"Note: {rows.path}: {new.size} rows have a {printable(name)!r} that no training row has ({listed}); they "
            f"count as none of its {len(known)} categories"
        )
    hot: np.ndarray = found[:, None] == np.arange(len(known))
    return hot
