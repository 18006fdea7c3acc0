"""Classification tasks from a table of labelled pictures, shared by all sources of images."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import EpisodeShape, Examples, Split, Task

Rotations = Literal["none", "per_task", "as_classes"]


class LabelledImages:
    """N-way K-shot tasks over classes with equally many examples each.

    An episode draws its classes, and in each class its examples, without replacement: support and query are disjoint.
    The order of the draw is the order of the labels, so a class's label changes from episode to episode.

    Args:
        images: uint8, ``[classes, examples, channels, height, width]``.
        names: The classes' names.
        rotations: ``per_task`` turns each class of each task by a random multiple of 90 degrees (the MAML paper);
            ``as_classes`` makes each of the four turns a class of its own (Vinyals et al.).
        split: Named in errors.
    """

    def __init__(self, images: Tensor, names: list[str], rotations: Rotations = "none", split: str = "") -> None:
        if rotations != "none" and images.shape[-2] != images.shape[-1]:
            raise ConfigError(
                f"pictures are {images.shape[-2]}x{images.shape[-1]} and rotations are {rotations!r}; "
                "expected square pictures, or rotations: none"
            )
        self.images = images
        self.names = names
        self._rotations = rotations
        self._split = split
        pixels = torch.arange(images.shape[-2] * images.shape[-1]).view(images.shape[-2:])
        self._turned = torch.stack([torch.rot90(pixels, turn).flatten() for turn in range(4)])

    @property
    def _classes(self) -> int:
        return len(self.names) * (4 if self._rotations == "as_classes" else 1)

    def to(self, device: torch.device) -> None:
        """Keeps the pictures on a device: meta-batches are cut there."""
        self.images, self._turned = self.images.to(device), self._turned.to(device)

    def check(self, shape: EpisodeShape) -> None:
        """An episode needs ``ways`` classes, and ``shots + queries`` examples in each."""
        if shape.ways is None:
            raise ConfigError("data.ways is not set; expected the number of classes of a task, for example 5")
        if shape.ways > self._classes:
            raise ConfigError(
                f"data.ways is {shape.ways}, but split {self._split!r} has {self._classes} classes; lower data.ways"
            )
        examples = self.images.shape[1]
        if shape.shots + shape.queries > examples:
            raise ConfigError(
                f"data.shots + data.queries is {shape.shots} + {shape.queries} = {shape.shots + shape.queries}, but "
                f"a class of split {self._split!r} has {examples} examples; lower data.shots or data.queries"
            )

    def _members(self, keys: Tensor, shape: EpisodeShape) -> tuple[Tensor, Tensor, Tensor]:
        """Classes and turns ``[tasks, ways]``, and examples ``[tasks, ways, shots + queries]``."""
        assert shape.ways is not None
        classes = random.choose(random.fold(keys, 0), self._classes, shape.ways)
        if self._rotations == "as_classes":
            classes, turns = classes // 4, classes % 4
        elif self._rotations == "per_task":
            turns = random.integers(random.fold(keys, 1), shape.ways, 4)
        else:
            turns = torch.zeros_like(classes)
        of_class = random.fold(random.fold(keys, 2)[:, None], torch.arange(shape.ways))
        return classes, turns, random.choose(of_class, self.images.shape[1], shape.shots + shape.queries)

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        """Images ``[tasks, ways * n, channels, height, width]`` (uint8), labels ``[tasks, ways * n]``, by class."""
        return self._build(*self._members(keys, shape), shape, keys)

    def _build(self, classes: Tensor, turns: Tensor, examples: Tensor, shape: EpisodeShape, index: Tensor) -> Task:
        # Not blocking, though the memory is not pinned: the numbers are copied aside, and the host need not wait for
        # what the device is at.
        classes, turns, rows = (part.to(self.images.device, non_blocking=True) for part in (classes, turns, examples))
        images = self.images[classes[..., None], rows]
        if self._rotations != "none":
            order = self._turned[turns][:, :, None, None].expand(*images.shape[:-2], -1)
            images = images.flatten(-2).gather(-1, order).view_as(images)
        labels = torch.arange(classes.shape[1])[None, :, None].expand(examples.shape)

        def part(start: int, stop: int) -> Examples:
            return Examples(images[:, :, start:stop].flatten(1, 2), labels[:, :, start:stop].flatten(1, 2))

        return Task(part(0, shape.shots), part(shape.shots, shape.shots + shape.queries), index)

    def describe(self, keys: Tensor, shape: EpisodeShape) -> list[Any]:
        """For each task and class: its name, its turn, and its examples, support first."""
        classes, turns, examples = (part.tolist() for part in self._members(keys, shape))
        return [
            [[self.names[name], turn, rows] for name, turn, rows in zip(*task, strict=True)]
            for task in zip(classes, turns, examples, strict=True)
        ]

    def recall(self, described: list[Any], shape: EpisodeShape) -> Task:
        """Pictures by the names of their classes and their numbers."""
        number = {name: place for place, name in enumerate(self.names)}
        try:
            classes = torch.tensor([[number[name] for name, _, _ in task] for task in described])
            turns = torch.tensor([[turn for _, turn, _ in task] for task in described])
            examples = torch.tensor([[rows for _, _, rows in task] for task in described])
            for what, numbers, bound in (("turn", turns, 4), ("example", examples, self.images.shape[1])):
                beyond = numbers[(numbers < 0) | (numbers >= bound)]
                if len(beyond):
                    raise IndexError(f"{what} {beyond[0]}")  # before a GPU sees it: there it would end the process
            return self._build(classes, turns, examples, shape, torch.arange(len(described)))
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise ConfigError(
                f"data.episodes names what split {self._split!r} does not have ({error}); expected a manifest of this "
                "data"
            ) from error

    def preprocess(self, x: Tensor) -> Tensor:
        """uint8 to floats in [0, 1]."""
        return x.to(torch.get_default_dtype()) / 255


def check_disjoint(splits: Mapping[Split, LabelledImages]) -> None:
    """Refuses splits that share a class or a picture.

    Args:
        splits: The tables by name.

    Raises:
        ConfigError: Names what is shared and by which splits.
    """
    owner: dict[str | bytes, tuple[str, str]] = {}
    for split, table in splits.items():
        for name, images in zip(table.names, table.images, strict=True):
            digests = [hashlib.md5(image.numpy().tobytes(), usedforsecurity=False).digest() for image in images]
            marks: list[str | bytes] = [name, *digests]
            for mark in marks:
                other, other_name = owner.setdefault(mark, (split, name))
                if other != split:
                    kind = "class" if isinstance(mark, str) else "picture"
                    raise ConfigError(
                        f"splits {other!r} and {split!r} share a {kind}: {other_name!r} and {name!r}; "
                        "expected disjoint splits: mend the data or its split lists"
                    )
