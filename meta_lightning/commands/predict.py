"""The command ``predict``, which predicts new inputs with an adapted file."""

from pathlib import Path

from meta_lightning.console import notify
from meta_lightning.files import check_writable, write_whole
from meta_lightning.runs.adapted import Adapted


def predict(*, adapted: Path, input: Path, output: Path = Path("predictions.csv"), batch_size: int = 64) -> None:
    """Predicts new inputs with a file that the command `adapt` wrote, and writes a CSV file.

    Args:
        adapted: The adapted file.
        input: A picture, a folder or a zip of pictures, or a table.
        output: The CSV file to write: a row for each input with its class and the probability of each class, or with
            its value.
        batch_size: How many inputs the net gets at once. It changes no prediction.

    Raises:
        ConfigError: If a file can't be read or written, or the inputs do not fit the net.
    """
    check_writable([output])
    loaded = Adapted.load(adapted)
    predictions = loaded.predict(input, batch_size)
    write_whole({output: predictions.csv(loaded.reader.id_name)})
    notify(f"{len(predictions.ids)} predictions: {output}")
