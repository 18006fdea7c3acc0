"""Prepares the examples of a user's own npz and npy files as those of the training were."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from meta_lightning.data.readers.array_files import ArrayFiles, Place, read_classes, to_tensor
from meta_lightning.data.readers.base import NewExamples, Reader
from meta_lightning.data.readers.table import sort_names
from meta_lightning.errors import ConfigError
from meta_lightning.types import Inputs

Kind = Literal["bytes", "integers", "floats"]

_KINDS: dict[torch.dtype, Kind] = {torch.uint8: "bytes", torch.int64: "integers"}


def kind_of_numbers(x: Tensor) -> Kind:
    """What kind of numbers inputs are."""
    return _KINDS.get(x.dtype, "floats")


class ArrayReader(Reader):
    """Reads the arrays ``x`` and ``y`` of an npz file or of a folder of npy files.

    Its arguments are plain data, so that a checkpoint can hold them.

    Args:
        shape: The shape of an example.
        kind: The kind of numbers that the examples of the training are.
        means: What is subtracted from each entry of the first dimension of ``shape``: one number for each or for all,
            or none.
        deviations: What the differences are divided by.
        channels_last: Whether the last dimension of stored examples becomes the first.
        reshaped: Whether stored examples are then brought into ``shape``; otherwise they must have it.
        as_integers: Whether integers stay integers, for nets with embeddings.

    Example:
        >>> import tempfile
        >>> reader = ArrayReader([2], "floats", means=[1.0, 0.0], deviations=[2.0, 1.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder) / "support.npz", x=np.array([[5.0, 1.0], [1.0, 0.0]]), y=["b", "a"])
        ...     new = reader.read(Path(folder) / "support.npz", labelled=True)
        >>> new.x, new.y, new.class_names
        (tensor([[2., 1.],
                [0., 0.]]), tensor([1, 0]), ['a', 'b'])
    """

    def __init__(
        self,
        shape: list[int],
        kind: Kind,
        means: list[float],
        deviations: list[float],
        channels_last: bool = False,
        reshaped: bool = False,
        as_integers: bool = False,
    ) -> None:
        self._shape = shape
        self._kind = kind
        self._means = means
        self._deviations = deviations
        self._channels_last = channels_last
        self._reshaped = reshaped
        self._as_integers = as_integers

    def prepare(self, x: Tensor) -> Tensor:
        """Turns stored examples, ``[..., *shape]``, into inputs of a net of the same shape."""
        if self._as_integers:
            return x.long()
        x = x.to(torch.get_default_dtype())
        if not self._means:
            return x
        mean, deviation = self._scale(x)
        return (x - mean) / deviation

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations, to be combined with examples."""
        shape = (-1, *[1] * (len(self._shape) - 1))
        return like.new_tensor(self._means).view(shape), like.new_tensor(self._deviations).view(shape)

    def read(self, path: Path, *, labelled: bool) -> NewExamples:
        """Reads an npz file or a folder of npy files, without labels also a single npy file.

        Examples are identified by their position, from 0.

        Raises:
            ConfigError: If ``x`` or ``y`` is missing, is of another shape or kind than in the training, or is broken.
        """
        files = ArrayFiles(path, "--support" if labelled else "--input")
        place = files.place("x")
        x = arrange(to_tensor(files.read("x"), place), place, self._shape * self._reshaped, self._channels_last)
        self._check(x, place)
        ids = [*map(str, range(len(x)))]
        if not labelled:
            return NewExamples(self.prepare(x), None, None, ids)
        names, numbers = classes_of(read_classes(files, "y", len(x), "x"))
        return NewExamples(self.prepare(x), torch.from_numpy(numbers), names, ids)

    def pictures(self, x: Inputs) -> Tensor | None:
        """The bytes that inputs were made from, if these are of the shape of pictures."""
        if self._kind != "bytes" or len(self._shape) != 3 or self._shape[0] not in (1, 3) or self._as_integers:
            return None
        assert isinstance(x, Tensor)
        if self._means:
            mean, deviation = self._scale(x)
            x = x * deviation + mean
        return x.round().clamp(0, 255).to(torch.uint8)

    def _check(self, x: Tensor, place: Place) -> None:
        if [*x.shape[1:]] != self._shape:
            raise ConfigError(f"{place} has examples of shape {[*x.shape[1:]]}; the training's had {self._shape}")
        kind = kind_of_numbers(x)
        if self._as_integers and kind == "floats":
            raise ConfigError(f"{place} holds floats, but the training's were integers; convert them")
        if not self._as_integers and (kind == "bytes") != (self._kind == "bytes"):
            raise ConfigError(
                f"{place} holds {kind}, but the training's were {self._kind}, so their scales differ; convert them"
            )


def arrange(x: Tensor, place: Place, shape: Sequence[int] = (), channels_last: bool = False) -> Tensor:
    """Brings stored examples, ``[examples, ...]``, into the form that a net takes.

    Args:
        x: The examples.
        place: Where they are, for messages.
        shape: The shape of an example; empty for the shape that it has.
        channels_last: Whether to make the last dimension the first one first.

    Raises:
        ConfigError: If examples have another number of entries than ``shape``.
    """
    if channels_last:
        x = x.movedim(-1, 1)
    if not shape:
        return x
    if x[0].numel() != torch.Size(shape).numel():
        raise ConfigError(
            f"{place} has examples of shape {[*x.shape[1:]]}, which can't become {[*shape]}; correct data.source.shape"
        )
    return x.reshape(len(x), *shape)


def classes_of(labels: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of the classes in their order, and the number of the class of each example, int64.

    Example:
        >>> classes_of(np.array([10, 9, 9]))
        (['9', '10'], array([1, 0, 0]))
    """
    values, places = np.unique(labels, return_inverse=True)
    texts = [str(value) for value in values.tolist()]
    names = sort_names(texts)
    number = {name: position for position, name in enumerate(names)}
    return names, np.array([number[text] for text in texts], np.int64)[places]
