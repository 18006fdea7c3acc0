"""Draws episodes by their indices and defines the order in which they are served."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from meta_lightning.data.manifest import Manifest, canonical
from meta_lightning.data.sources.base import Family
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import SPLITS, EpisodeShape, Split, Task

# Descriptions of episodes take more memory than their pictures, so they are made in parts of this many episodes.
_DESCRIBED_PER_PART = 500


def keys(seed: int, split: Split, indices: Tensor) -> Tensor:
    """The random keys of episodes, int64, ``[tasks]``. An episode's content depends on its key and shape alone.

    Args:
        seed: The seed of the split's episodes.
        split: The split.
        indices: The numbers of the episodes, int64, ``[tasks]``.
    """
    return random.fold(_split_key(seed, split), indices)


@cache
def _split_key(seed: int, split: Split) -> Tensor:
    return random.key(seed, SPLITS.index(split))


def draw(family: Family, seed: int, split: Split, shape: EpisodeShape, indices: Tensor) -> Task:
    """Draws episodes as one meta-batch.

    Args:
        family: The tasks of the split.
        seed: The seed of the split's episodes.
        split: The split.
        shape: Ways, shots and queries.
        indices: The numbers of the episodes, int64, ``[tasks]``.

    Returns:
        A meta-batch whose inputs are on the family's device and not preprocessed. Its index and key are on the CPU.
    """
    key = keys(seed, split, indices)
    tasks = family.draw(key, shape)
    if not isinstance(tasks, Task):
        raise ConfigError(
            f"data.source: draw of {type(family).__name__} returns {type(tasks).__name__}; expected a "
            "meta_lightning.Task, with the leading dimension [tasks] in every tensor"
        )
    return tasks._replace(index=indices, key=key)


def replay(family: Family, manifest: Manifest, indices: Tensor) -> Task:
    """Rebuilds episodes of a manifest as one meta-batch.

    Args:
        family: The tasks of the manifest's split.
        manifest: The described episodes.
        indices: The positions of the episodes in the manifest, int64, ``[tasks]``.

    Returns:
        A meta-batch, as from `draw`.

    Raises:
        ConfigError: If the family does not have what the manifest names.
    """
    described = [manifest.episodes[index] for index in indices.tolist()]
    key = keys(manifest.seed, manifest.split, indices)
    return family.rebuild(described, manifest.shape, key)._replace(index=indices, key=key)


def describe(family: Family, seed: int, split: Split, shape: EpisodeShape, tasks: int) -> Iterator[Any]:
    """Describes the first episodes of a split, one after the other.

    Args:
        family: The tasks of the split.
        seed: The seed of the split's episodes.
        split: The split.
        shape: Ways, shots and queries.
        tasks: The number of episodes.
    """
    for part in torch.split(torch.arange(tasks), _DESCRIBED_PER_PART):
        yield from family.describe(keys(seed, split, part), shape)


def check_episodes(manifest: Manifest, family: Family) -> None:
    """Checks that the episodes of a manifest have its shape and are distinct, unless its seed draws them.

    Args:
        manifest: A manifest of this data, see `check_manifest`.
        family: The tasks of the manifest's split. Where it has no method ``problem``, only duplicates are found.

    Raises:
        ConfigError: If an episode has another shape, has an example twice, or is a copy of another episode.
    """
    find_problem = getattr(family, "problem", None)
    drawn = describe(family, manifest.seed, manifest.split, manifest.shape, len(manifest.episodes))
    seen: dict[str, int] = {}
    for number, (episode, honest) in enumerate(zip(manifest.episodes, drawn, strict=True)):
        text = canonical(episode)
        first = seen.setdefault(text, number)
        if text == canonical(honest):  # few classes and examples make few episodes, so the seed may draw one twice
            continue
        problem = find_problem(episode, manifest.shape) if find_problem else None
        if first != number:
            problem = problem or f"is the same as episode {first}; expected distinct episodes"
        if problem:
            raise ConfigError(f"data.episodes: episode {number} {problem}: write the file again")


class MetaBatches(Dataset[Task]):
    """The sequence of meta-batches. Number ``i`` holds the episodes ``i * size`` to ``(i + 1) * size - 1``.

    The episodes of a meta-batch are dealt out to the ranks in turn.

    Args:
        draw: Maps indices of episodes, ``[tasks]``, to a meta-batch.
        size: Episodes in a meta-batch, over all ranks.
        rank: The rank of this process.
        world_size: The number of processes.
        total: The number of episodes; None for no limit. The last meta-batch may be smaller than the others.
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
        """This rank's share of a meta-batch, a pure function of its number."""
        end = (number + 1) * self._size
        end = end if self._total is None else min(end, self._total)
        return self._draw(torch.arange(min(number * self._size + self._rank, end), end, self._world_size))


class ResumingSampler(DistributedSampler[Any]):
    """Yields consecutive numbers of meta-batches, so that a resumed run continues with the meta-batch it had reached.

    It inherits from `DistributedSampler` only to keep Lightning from inserting a sampler of its own, which shuffles.
    `MetaBatches` divides the episodes among ranks.

    Args:
        length: Meta-batches per epoch.
        start: Returns the first number; called when iteration begins.
    """

    def __init__(self, length: int, start: Callable[[], int]) -> None:
        self._length = length
        self._start = start

    def __len__(self) -> int:
        """The length of an epoch, for the progress bar. The supply of episodes does not end with an epoch."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """The numbers of one epoch's meta-batches."""
        first = self._start()
        return iter(range(first, first + self._length))

    def set_epoch(self, epoch: int) -> None:
        """Does nothing. The order does not depend on the epoch."""
