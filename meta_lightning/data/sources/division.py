"""Divides classes or tasks among the splits."""

from collections.abc import Sequence

from meta_lightning.console import printable
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import Split

# The shares of validation and test, as in CIFAR-FS and mini-ImageNet (64 / 16 / 20 of 100 classes).
_VAL_SHARE, _TEST_SHARE = 0.16, 0.2

# What people call the splits.
_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def divide(names: Sequence[str], seed: int, noun: str = "classes") -> dict[Split, list[str]]:
    """Divides names at random: 64 % for training, 16 % for validation and 20 % for testing, at least one each.

    Args:
        names: Distinct names. Their order does not matter.
        seed: The seed of the division.
        noun: The word for several of them, for messages.

    Returns:
        The names of each split, sorted.

    Raises:
        ConfigError: If there are fewer than three names.

    Example:
        >>> {split: len(members) for split, members in divide([f"class {i}" for i in range(100)], seed=0).items()}
        {'train': 64, 'val': 16, 'test': 20}
    """
    if len(names) < 3:
        raise ConfigError(
            f"the data have {len(names)} {noun}; expected at least 3, to train, validate and test on different ones"
        )
    order = random.choose(random.key(seed), len(names), len(names)).tolist()
    drawn = [sorted(names)[number] for number in order]
    val, test = (max(1, round(share * len(names))) for share in (_VAL_SHARE, _TEST_SHARE))
    parts: dict[Split, list[str]] = {"train": drawn[val + test :], "val": drawn[:val], "test": drawn[val : val + test]}
    return {split: sorted(members) for split, members in parts.items()}


def read_splits(splits: Sequence[str], members: Sequence[str], place: str, noun: str) -> dict[Split, list[str]]:
    """Reads the split of each row, which must be the same for all rows of a class or task.

    Args:
        splits: The split of each row.
        members: The class or task of each row.
        place: Where the splits stand, for messages.
        noun: The word for several of what is divided, for messages.

    Returns:
        The names of each split, sorted.

    Raises:
        ConfigError: If a split has another name, is missing, or shares a class or task with another.

    Example:
        >>> read_splits(["train", "train", "val", "test"], ["a", "a", "b", "c"], "column 'split'", "classes")
        {'train': ['a'], 'val': ['b'], 'test': ['c']}
    """
    parts: dict[Split, list[str]] = {"train": [], "val": [], "test": []}
    known = {name: split for split, names in _NAMES.items() for name in names}
    owners: dict[str, Split] = {}
    for text, member in dict.fromkeys(zip(splits, members, strict=True)):
        split = known.get(text.lower())
        if split is None:
            raise ConfigError(f"{place} has the split {printable(text)!r}; expected train, val or test")
        if owners.setdefault(member, split) != split:
            raise ConfigError(
                f"{place}: {printable(member)!r} is in splits {owners[member]!r} and {split!r}; expected {noun} with "
                "all their rows in one split"
            )
    for member, split in owners.items():
        parts[split].append(member)
    if empty := [split for split, names in parts.items() if not names]:
        raise ConfigError(
            f"{place} gives no {noun} to {' and '.join(map(repr, empty))}; expected some in train, val and test, or "
            "leave the splits out for a random division"
        )
    return {split: sorted(names) for split, names in parts.items()}
