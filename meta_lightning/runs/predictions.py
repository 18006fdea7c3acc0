"""Predictions for new inputs, and how they are written to a file."""

import csv
import io
from typing import NamedTuple

from torch import Tensor


class Predictions(NamedTuple):
    """What an adapted net predicts for new inputs.

    Attributes:
        ids: What identifies each input: the path of a picture, or the number of a row.
        class_names: The names of the classes; empty for regression.
        values: The probability of each class, ``[inputs, classes]``; in regression the values in the unit of the
            targets, ``[inputs, out]``. On the CPU.

    Example:
        >>> import torch
        >>> predictions = Predictions(["1.png"], ["cat", "dog"], torch.tensor([[0.25, 0.75]]))
        >>> predictions.answers, predictions.confidence
        (['dog'], [0.75])
        >>> print(predictions.csv("file"))
        file,class,cat,dog
        1.png,dog,0.2500000,0.7500000
        <BLANKLINE>
    """

    ids: list[str]
    class_names: list[str]
    values: Tensor

    @property
    def answers(self) -> list[str]:
        """The most probable class of each input; empty for regression."""
        if not self.class_names:
            return []
        return [self.class_names[number] for number in self.values.argmax(1).tolist()]

    @property
    def confidence(self) -> list[float]:
        """The probability of each answer; empty for regression."""
        return self.values.max(1).values.tolist() if self.class_names else []

    def csv(self, id_name: str, truth: list[str] | None = None) -> str:
        """The text of a CSV file.

        Args:
            id_name: The heading of the ids.
            truth: The true class or value of each input, empty where it is not known; None for no such column.
        """
        header = [*self.class_names]
        if not header:
            out = self.values.shape[1]
            header = ["value"] if out == 1 else [f"value_{number}" for number in range(out)]
        writer = csv.writer(buffer := io.StringIO(newline=""), lineterminator="\n")
        writer.writerow([id_name, *["class"] * bool(self.class_names), *["truth"] * (truth is not None), *header])
        form = ".7f" if self.class_names else ".9g"
        for row, (name, numbers) in enumerate(zip(self.ids, self.values.tolist(), strict=True)):
            words = [name, *self.answers_of(row), *([truth[row]] if truth is not None else [])]
            writer.writerow([*words, *(f"{number:{form}}" for number in numbers)])
        return buffer.getvalue()

    def answers_of(self, row: int) -> list[str]:
        """The answer for one input, alone in a list; an empty list for regression."""
        return [self.class_names[int(self.values[row].argmax())]] if self.class_names else []
