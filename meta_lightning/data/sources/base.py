"""The interfaces of task sources: a source prepares data once and provides one family of tasks per split."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from meta_lightning.types import EpisodeShape, Inputs, Split, Task


class Family(Protocol):
    """A distribution of tasks. Every task is a pure function of a random key.

    Any class with these methods is a family; it need not inherit from this one. A family may also have a method
    ``problem(episode, shape)``, which says why a description is not of an episode of this shape, or returns None. It is
    asked about each episode of a manifest that the manifest's seed does not draw.

    Example:
        >>> from meta_lightning.data.episodes import keys
        >>> from meta_lightning.data.sources import Sinusoid
        >>> family, shape = Sinusoid().load("train"), EpisodeShape(ways=None, shots=1, queries=2)
        >>> family.check(shape)
        >>> family.draw(keys(0, "train", torch.arange(3)), shape).query.x.shape
        torch.Size([3, 2, 1])
    """

    def check(self, shape: EpisodeShape) -> None:
        """Checks that episodes of this shape can be drawn.

        Raises:
            ConfigError: If they can't; the message names what the family has.
        """

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        """Draws one task per key, as one meta-batch. The caller fills in its ``index`` and ``key``.

        Args:
            keys: Random keys, int64, ``[tasks]``.
            shape: Ways, shots and queries.
        """

    def describe(self, keys: Tensor, shape: EpisodeShape) -> list[Any]:
        """Describes the content of each task by names and numbers that JSON can hold.

        The episode hash and manifests are made of these descriptions.

        Args:
            keys: Random keys, int64, ``[tasks]``.
            shape: Ways, shots and queries.
        """

    def rebuild(self, described: list[Any], shape: EpisodeShape, keys: Tensor) -> Task:
        """Rebuilds tasks from their descriptions, as one meta-batch like that of `draw`.

        Args:
            described: What `describe` returned for ``keys``.
            shape: Ways, shots and queries.
            keys: Random keys, int64, ``[tasks]``.

        Raises:
            ConfigError: If this family does not have what a description names.
        """

    def to(self, device: torch.device) -> None:
        """Moves stored examples to a device. A family that stores none does nothing."""

    def preprocess(self, x: Inputs) -> Inputs:
        """Turns stored inputs, ``[tasks, examples, *shape]``, into inputs of a net. Runs on the training device."""


class Source(ABC):
    """A benchmark's data, in three splits. Constructing a source touches no file.

    Example:
        A source of random vectors in ten classes per split:

        >>> from meta_lightning.data.sources import ClassTable
        >>> class Vectors(Source):
        ...     def prepare(self):
        ...         pass
        ...     def load(self, split):
        ...         return ClassTable(torch.randn(10, 20, 8), [f"{split} {number}" for number in range(10)])
        ...     def fingerprint(self):
        ...         return "random vectors"
        >>> Vectors().load("val").names[:2]
        ['val 0', 'val 1']
    """

    @abstractmethod
    def prepare(self) -> None:
        """Fetches and caches what is missing. It is called by one process per machine at a time, more than once."""

    @abstractmethod
    def load(self, split: Split) -> Family:
        """Loads the tasks of a split and checks that splits share no class and no example.

        Raises:
            ConfigError: If data is missing, broken, or shared between splits.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that identifies the data and its preprocessing. It does not depend on the episodes."""

    def constants(self) -> dict[str, Any]:
        """The facts that new inputs must be prepared by (sizes, scaling, class order); checkpoints keep them.

        The entry ``reader``, made by `readers.base.recipe`, names the `Reader` that prepares new inputs.
        """
        return {}
