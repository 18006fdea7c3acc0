"""Finds examples that classes or splits share, by a hash of each example."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from meta_lightning.console import printable
from meta_lightning.data.sources.class_table import ClassTable
from meta_lightning.errors import ConfigError
from meta_lightning.types import Inputs, Split

# A message names at most this many classes, or pairs of them.
_MAX_NAMES = 5


class Contents(NamedTuple):
    """What is compared of a split.

    Attributes:
        names: The names of the classes.
        classes: The number of the class of each example, ``[examples]``.
        hashes: A hash of each example, which holds for this process alone, ``[examples]``.
        noun: The word for an example, with its article.
    """

    names: list[str]
    classes: np.ndarray
    hashes: np.ndarray
    noun: str

    @classmethod
    def of(cls, table: ClassTable) -> "Contents":
        """The contents of a table."""
        hashes = [hash_rows(table.examples_of(number)) for number in range(len(table.names))]
        return cls(
            table.names,
            np.repeat(np.arange(len(table.names)), table.counts.numpy()),
            np.concatenate(hashes),
            table.noun,
        )


def hash_rows(inputs: Inputs) -> np.ndarray:
    """A hash of each example's bytes, int64, ``[examples]``. It differs between processes."""
    parts = [part for part in tree_leaves(inputs) if isinstance(part, torch.Tensor)]
    rows = [part.detach().cpu().reshape(len(part), -1).contiguous().view(torch.uint8).numpy() for part in parts]
    # Python's own hash of bytes is five times as fast as MD5, and its 64 bits do not collide by chance.
    hashes = (hash(b"".join(row.tobytes() for row in example)) for example in zip(*rows, strict=True))
    return np.fromiter(hashes, np.int64, len(parts[0]))


def check_names_disjoint(splits: Mapping[Split, Sequence[str]]) -> None:
    """Checks that splits share no class.

    Args:
        splits: The names of the classes of each split.

    Raises:
        ConfigError: If two splits share a name.
    """
    owners: dict[str, Split] = {}
    for split, names in splits.items():
        for name in names:
            if owners.setdefault(name, split) != split:
                raise _shared(owners[name], split, "a class", (name, name))


def check_disjoint(splits: Mapping[Split, ClassTable]) -> None:
    """Checks that splits share no class and no example.

    Args:
        splits: The table of each split.

    Raises:
        ConfigError: If two splits share a class name or an example.
    """
    check_names_disjoint({split: table.names for split, table in splits.items()})
    check_contents_disjoint({split: Contents.of(table) for split, table in splits.items()})


def check_contents_disjoint(splits: Mapping[Split, Contents]) -> None:
    """Checks that splits share no example, see `check_disjoint`."""
    for (owner, others), (split, contents) in combinations(splits.items(), 2):
        if (pair := _shared_example(others, contents)) is not None:
            raise _shared(owner, split, contents.noun, pair)


def coincidences(splits: Mapping[Split, Contents]) -> list[str]:
    """Describes the examples that splits share, where examples may be equal by chance."""
    messages = []
    for (owner, others), (split, contents) in combinations(splits.items(), 2):
        if equal := int(np.isin(contents.hashes, others.hashes).sum()):
            messages.append(
                f"{equal} of the {len(contents.hashes)} examples of split {split!r} equal one of split {owner!r}; "
                "that may be chance, or copies in the data"
            )
    return messages


def _shared(owner: Split, split: Split, what: str, pair: tuple[str, str]) -> ConfigError:
    one, other = (printable(name) for name in pair)
    return ConfigError(
        f"splits {owner!r} and {split!r} share {what}: {one!r} and {other!r}; "
        "expected disjoint splits: correct the data or its split lists"
    )


def _shared_example(one: Contents, other: Contents) -> tuple[str, str] | None:
    """The names of two classes that share an example."""
    rows = np.isin(other.hashes, one.hashes).nonzero()[0]
    if not len(rows):
        return None
    row = int(rows[0])
    first = int((one.hashes == other.hashes[row]).nonzero()[0][0])
    return one.names[one.classes[first]], other.names[other.classes[row]]


def duplicates(split: Split, contents: Contents) -> list[str]:
    """Describes what is wrong inside of a split: identical examples in different classes, and classes of copies.

    A class counts as one of copies if fewer than half of its examples are distinct. A single copy, as in Omniglot, does
    no harm.
    """
    messages = []
    copied, sharing = _copies(contents)
    if sharing:
        listed = [f"{printable(one)} and {printable(other)}" for one, other in sharing[:_MAX_NAMES]]
        more = f", and {len(sharing) - _MAX_NAMES} more pairs" if len(sharing) > _MAX_NAMES else ""
        messages.append(
            f"split {split!r} has {contents.noun} in two classes: {', '.join(listed)}{more}. Nobody can tell such "
            "classes apart: remove the copies from the data"
        )
    if copied:
        listed = [f"{printable(name)} ({distinct} of {count})" for name, distinct, count in copied[:_MAX_NAMES]]
        more = f" and {len(copied) - _MAX_NAMES} more" if len(copied) > _MAX_NAMES else ""
        messages.append(
            f"split {split!r} has classes with few distinct examples: {', '.join(listed)}{more}. Queries repeat "
            "support examples, so results are too good: remove the copies from the data"
        )
    return messages


def _copies(contents: Contents) -> tuple[list[tuple[str, int, int]], list[tuple[str, str]]]:
    """The classes of copies, each with its numbers of distinct and of all examples; the pairs of sharing classes."""
    # Each example of each class once, sorted by hash.
    examples = np.unique(np.stack([contents.hashes, contents.classes], 1), axis=0)
    hashes, classes = examples[:, 0], examples[:, 1]
    distinct = np.bincount(classes, minlength=len(contents.names))
    counts = np.bincount(contents.classes, minlength=len(contents.names))
    few = ((distinct * 2 < counts) | ((distinct == 1) & (counts > 1))).nonzero()[0]
    same = (hashes[1:] == hashes[:-1]).nonzero()[0]
    pairs = dict.fromkeys((contents.names[classes[row]], contents.names[classes[row + 1]]) for row in same)
    return [(contents.names[number], int(distinct[number]), int(counts[number])) for number in few], [*pairs]
