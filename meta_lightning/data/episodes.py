"""Episodes: which task an index stands for, in what shape, and in which order they are served."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from meta_lightning.data.sources.base import Family
from meta_lightning.functional import random
from meta_lightning.types import EpisodeShape, Split, Task

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def keys(seed: int, split: Split, indices: Tensor) -> Tensor:
    """The random key of each episode: all that an episode depends on, ``[tasks]``."""
    return random.fold(_split_key(seed, split), indices)


@cache
def _split_key(seed: int, split: Split) -> Tensor:
    return random.key(seed, SPLITS.index(split))


def draw(family: Family, seed: int, split: Split, shape: EpisodeShape, indices: Tensor) -> Task:
    """The episodes with these numbers, as one meta-batch on the CPU, inputs as stored.

    Args:
        family: The tasks of the split.
        seed: The seed of the split's episodes.
        split: Which split.
        shape: Ways, shots and queries.
        indices: int64, ``[tasks]``.
    """
    return family.draw(keys(seed, split, indices), shape)._replace(index=indices)


def replay(family: Family, described: list[Any], shape: EpisodeShape, indices: Tensor) -> Task:
    """Episodes that were written down, by their places in the list; otherwise as `draw`."""
    return family.recall([described[index] for index in indices.tolist()], shape)._replace(index=indices)


class MetaBatches(Dataset[Task]):
    """Meta-batch number ``i``: the episodes ``i * size`` to ``(i + 1) * size - 1``, strided over ranks.

    Args:
        draw: Indices of episodes, ``[tasks]``, to a meta-batch.
        size: Episodes in a meta-batch, over all ranks.
        rank: This process.
        world_size: All processes.
        total: Where episodes end, if they do; the last meta-batch may be smaller.
    """

    def __init__(
        self, draw: Callable[[Tensor], Task], size: int, rank: int = 0, world_size: int = 1, total: int | None = None
    ) -> None:
        self._draw = draw
        self._size = size
        self._rank = rank
        self._world_size = world_size
        self._total = total

    def __getitem__(self, number: int) -> Task:
        """The meta-batch with this number: a pure function of it."""
        end = (number + 1) * self._size
        end = end if self._total is None else min(end, self._total)
        return self._draw(torch.arange(min(number * self._size + self._rank, end), end, self._world_size))


class ResumingSampler(DistributedSampler[Any]):
    """Numbers of meta-batches from wherever training stands, so that a resumed run goes on with the next one.

    It is a `DistributedSampler` by type only: that keeps Lightning from putting its own, shuffling one in its place.
    `MetaBatches` does the sharding.

    Args:
        length: How many meta-batches an epoch shows.
        start: Gives the first number when iteration begins.
    """

    def __init__(self, length: int, start: Callable[[], int]) -> None:
        self._length = length
        self._start = start

    def __len__(self) -> int:
        """The length of an epoch, for the progress bar; episodes do not end with it."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Consecutive numbers from the start."""
        first = self._start()
        return iter(range(first, first + self._length))

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch."""
