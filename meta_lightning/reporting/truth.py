"""The true classes or values of inputs that were predicted, and how well the predictions fit them."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from meta_lightning.console import printable
from meta_lightning.data.readers.array_files import ArrayFiles, read_classes
from meta_lightning.data.readers.picture_files import PictureFiles
from meta_lightning.data.readers.rows import Rows
from meta_lightning.errors import ConfigError
from meta_lightning.runs.predictions import Predictions

_TABLES = (".csv", ".tsv", ".parquet")
_ARRAYS = (".npz", ".npy")
_MAX_NAMES = 8


class Comparison(NamedTuple):
    """Predictions beside what is true.

    Attributes:
        truth: The true class or value of each input as text; empty where it is not known.
        known: The number of inputs whose truth is known.
        summary: The accuracy, or the error in regression, as text.
        confusion: How often each class (rows) got each answer (columns), ``[classes, classes]``; None in regression.
    """

    truth: list[str]
    known: int
    summary: str
    confusion: Tensor | None


class _Labels(NamedTuple):
    """What is true, by the id of an input, and where that is said."""

    by_id: Mapping[str, str]
    places: Mapping[str, str]


def compare_with_truth(given: str, inputs: Path, predictions: Predictions, id_name: str) -> Comparison:
    """Compares predictions with what is true.

    Args:
        given: A CSV file with a column of ids and ``class`` or ``value``; class folders or a zip of them; or the name
            of a column or an array in the file of the inputs.
        inputs: The file or the folder of the inputs.
        predictions: The predictions.
        id_name: What an id is: the heading of their column.

    Raises:
        ConfigError: If there is no such file or column, it does not fit the inputs, or names a class that the
            predictions do not have.
    """
    labels = _read(given, inputs, predictions, id_name)
    names: dict[str, list[str]] = {PurePosixPath(key).name: [] for key in labels.by_id}
    for key in labels.by_id:
        names[PurePosixPath(key).name].append(key)
    truth: list[str] = []
    for input_id in predictions.ids:
        same_name = names.get(PurePosixPath(input_id).name, [])
        # An input's path may start elsewhere; a name that one file alone has tells it, too.
        found = input_id if input_id in labels.by_id else same_name[0] if len(same_name) == 1 else None
        truth.append("" if found is None else labels.by_id[found])
    if not any(truth):
        raise ConfigError(
            f"--truth {given}: it has none of the {len(truth)} inputs, of which the first is "
            f"{printable(predictions.ids[0])}; expected the same paths or numbers in column {id_name!r}"
        )
    known = [row for row, text in enumerate(truth) if text]
    if predictions.class_names:
        return _classes(truth, known, predictions, labels)
    return _values(truth, known, predictions, labels)


def _classes(truth: list[str], known: list[int], predictions: Predictions, labels: _Labels) -> Comparison:
    names = predictions.class_names
    for key, text in labels.by_id.items():
        if text not in names:
            listed = ", ".join(map(printable, names[:_MAX_NAMES])) + ", ..." * (len(names) > _MAX_NAMES)
            raise ConfigError(
                f"{labels.places[key]} has the class {printable(text)!r}, which the support set did not have; it had "
                f"{listed}: correct it, or leave it out"
            )
    true = torch.tensor([names.index(truth[row]) for row in known])
    answers = predictions.values[known].argmax(1)
    confusion = torch.bincount(true * len(names) + answers, minlength=len(names) ** 2).view(len(names), -1)
    hits = int(confusion.diagonal().sum())
    interval = binomtest(hits, len(known)).proportion_ci(method="wilson")
    summary = (
        f"accuracy {hits / len(known):.2%} ({hits} of {len(known)}; 95 % interval {interval.low:.1%} to "
        f"{interval.high:.1%})"
    )
    return Comparison(truth, len(known), summary, confusion)


def _values(truth: list[str], known: list[int], predictions: Predictions, labels: _Labels) -> Comparison:
    for key, text in labels.by_id.items():
        try:
            finite = bool(np.isfinite(float(text)))
        except ValueError:
            finite = False
        if not finite:
            raise ConfigError(f"{labels.places[key]} has the value {printable(text)!r}; expected a finite number")
    true = torch.tensor([float(truth[row]) for row in known])
    errors = predictions.values[known, 0] - true
    summary = (
        f"root of the mean squared error {errors.square().mean().sqrt():.4g}, mean absolute error "
        f"{errors.abs().mean():.4g} ({len(known)} inputs)"
    )
    return Comparison(truth, len(known), summary, None)


def _read(given: str, inputs: Path, predictions: Predictions, id_name: str) -> _Labels:
    path = Path(given)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return _from_folders(path)
    if path.is_file():
        return _from_list(path, id_name, "class" if predictions.class_names else "value")
    suffix = inputs.suffix.lower()
    if inputs.is_file() and suffix in _TABLES:
        rows = Rows.read(inputs)
        rows.need(given, "--truth")
        texts = rows.texts(given)
    elif inputs.is_file() and suffix in _ARRAYS:
        texts = [*map(str, read_classes(ArrayFiles(inputs, "--input"), given, len(predictions.ids), "x").tolist())]
    else:
        raise ConfigError(
            f"--truth {given}: no such file or folder; expected a CSV file with the columns {id_name} and class, class "
            "folders, or, if --input is a table, the name of its column"
        )
    ids = predictions.ids
    return _Labels(dict(zip(ids, texts, strict=True)), {key: f"{inputs}: {id_name} {key}" for key in ids})


def _from_folders(path: Path) -> _Labels:
    files = PictureFiles.of(path, "--truth")
    classes = {
        file.path: name for groups in files.by_class().values() for name, group in groups.items() for file in group
    }
    return _Labels(classes, {file: files.label(file) for file in classes})


def _from_list(path: Path, id_name: str, column: str) -> _Labels:
    rows = Rows.read(path)
    for name in (id_name, column):
        rows.need(name)
    ids, texts = rows.texts(id_name), rows.texts(column)
    places = {key: f"{path}: row {number}" for key, number in zip(ids, rows.numbers, strict=True)}
    if len(places) < len(ids):
        repeated = next(key for row, key in enumerate(ids) if key in ids[:row])
        raise ConfigError(f"{places[repeated]} is the second of {printable(repeated)}; remove one of them")
    return _Labels(dict(zip(ids, texts, strict=True)), places)
