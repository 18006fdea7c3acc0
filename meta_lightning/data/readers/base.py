"""The interface of readers: new inputs are prepared in the same way as the data of the training."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from meta_lightning.types import Inputs


class NewExamples(NamedTuple):
    """Examples of a user's own, ready for a net.

    Attributes:
        x: Inputs as `Family.preprocess` returns them, ``[examples, *shape]``, on the CPU.
        y: Targets in the unit that the net is trained in: class numbers, int64 ``[examples]``, or values, float
            ``[examples, 1]``; None if the examples were read without their targets.
        class_names: The name of each class number; None for values, or without targets.
        ids: What identifies each example to its owner: the path of a picture, or the number of a row.
    """

    x: Inputs
    y: Tensor | None
    class_names: list[str] | None
    ids: list[str]


class Reader(ABC):
    """Reads new examples from files and prepares them as a source prepares its own.

    A source states its reader in `Source.constants`, by `recipe`. The checkpoint keeps that entry, and
    ``meta_lightning.engine.recipes.build(constants["reader"], Reader)`` builds the reader again. The arguments of a
    reader's constructor are plain data (numbers, strings and lists of them).

    Example:
        A reader of text files with one number a line:

        >>> import tempfile
        >>> class Numbers(Reader):
        ...     def __init__(self, mean: float) -> None:
        ...         self.mean = mean
        ...     def read(self, path, *, labelled):
        ...         lines = path.read_text().split()
        ...         return NewExamples(torch.tensor([[float(line) - self.mean] for line in lines]), None, None, lines)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "numbers.txt").write_text("1 2 3")
        ...     Numbers(mean=2.0).read(Path(folder) / "numbers.txt", labelled=False).x.flatten()
        tensor([-1.,  0.,  1.])
    """

    id_name: ClassVar[str] = "example"
    """What an id of `NewExamples` is: the heading of their column in a file of predictions."""

    @abstractmethod
    def read(self, path: Path, *, labelled: bool) -> NewExamples:
        """Reads and prepares examples.

        Args:
            path: A file or a folder, of a form that the source of the training takes, too.
            labelled: Whether the examples are read with their targets, as those of a support set. Otherwise targets
                are left out even if they are there.

        Raises:
            ConfigError: Names the file, the place in it and the remedy, if it can't be read, has targets that it
                should not lack, or does not fit the data of the training.
        """

    def denormalise(self, predictions: Tensor) -> Tensor:
        """Turns predicted values, ``[..., 1]``, into the unit of the targets in the files; logits stay as they are."""
        return predictions

    def pictures(self, x: Inputs) -> Tensor | None:
        """How inputs look to a person: uint8 ``[examples, 1 or 3, height, width]``; None if they are no pictures."""
        return None


def recipe(reader: type[Reader], **init_args: Any) -> dict[str, Any]:
    """The entry ``reader`` of `Source.constants`.

    Args:
        reader: The class of the reader.
        **init_args: The arguments of its constructor.
    """
    return {"class_path": f"{reader.__module__}.{reader.__qualname__}", "init_args": init_args}
