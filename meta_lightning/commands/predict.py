"""The command ``predict``, which predicts new inputs with an adapted file."""

from pathlib import Path

from rich.table import Table

from meta_lightning.console import notify, printable, show
from meta_lightning.errors import ConfigError
from meta_lightning.files import check_writable, write_whole
from meta_lightning.reporting.prediction_page import prediction_page
from meta_lightning.reporting.truth import Comparison, compare_with_truth
from meta_lightning.runs.adapted import Adapted, unlike

# The most classes whose confusion fits on a screen.
_MAX_CLASSES = 12


def predict(
    *,
    adapted: Path,
    input: Path,
    output: Path = Path("predictions.csv"),
    html: Path | None = None,
    truth: str | None = None,
    batch_size: int = 64,
) -> None:
    """Predicts new inputs with a file that the command `adapt` wrote, and writes a CSV file.

    Args:
        adapted: The adapted file.
        input: A picture, a folder or a zip of pictures, a table, or arrays.
        output: The CSV file to write: a row for each input with its class and the probability of each class, or with
            its value.
        html: A page to write with the support set and each prediction, least certain first.
        truth: What is true: a CSV file with the paths of the files and their classes, class folders, or the name of a
            column of the input. Adds the accuracy and a confusion matrix.
        batch_size: How many inputs the net gets at once. It changes no prediction.

    Raises:
        ConfigError: If a file can't be read or written, or the inputs do not fit the net.
    """
    outputs = [output] if html is None else [output, html]
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise ConfigError(f"--html and --output are both {output}; expected two files")
    check_writable(outputs)
    loaded = Adapted.load(adapted)
    reader = loaded.reader
    new = reader.read(input, labelled=False)
    predictions = loaded.predict(new.x, batch_size, new.ids)
    if problem := unlike(loaded.content["inputs"], new.x):
        notify(
            f"Note: the inputs of {input} are unlike the support set ({problem}); check that both are prepared alike"
        )
    comparison = None if truth is None else compare_with_truth(truth, input, predictions, reader.id_name)
    files = {output: predictions.csv(reader.id_name, comparison.truth if comparison else None)}
    if html is not None:
        files[html] = prediction_page(loaded, predictions, reader.pictures(new.x), comparison, reader.id_name)
    write_whole(files)
    if comparison is not None:
        _show(comparison, predictions.class_names)
    notify(f"{len(predictions.ids)} predictions: {output}{f', as a page: {html}' if html else ''}")


def _show(comparison: Comparison, names: list[str]) -> None:
    if (missing := len(comparison.truth) - comparison.known) > 0:
        notify(f"Note: the truth of {missing} of the {len(comparison.truth)} inputs is not known; they do not count")
    if comparison.confusion is not None and len(names) <= _MAX_CLASSES:
        table = Table("truth \\ answer", *map(printable, names))
        for name, counts in zip(names, comparison.confusion.tolist(), strict=True):
            table.add_row(printable(name), *map(str, counts))
        show(table)
    notify(comparison.summary[0].upper() + comparison.summary[1:])
