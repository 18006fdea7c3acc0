"""Divides classes or tasks among the splits."""

import unicodedata
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml

from meta_lightning.console import notify, printable
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import SPLITS, Split

# The shares of validation and test, as in CIFAR-FS and mini-ImageNet (64 / 16 / 20 of 100 classes).
_VAL_SHARE, _TEST_SHARE = 0.16, 0.2

_MAX_NAMES = 5  # in a message

# What people call the splits.
_NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_named(text: str) -> Split | None:
    """The split that people call by a name; None if it is the name of none.

    Example:
        >>> split_named("Validation"), split_named("holdout")
        ('val', None)
    """
    return _NAMES.get(text.lower())


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


def published_split(benchmark: str) -> dict[Split, list[str]]:
    """The classes of each split of a published benchmark, whose lists ship with the package.

    Args:
        benchmark: The folder of the lists in ``data/sources/splits``.

    Example:
        >>> {split: len(members) for split, members in published_split("fc100").items()}
        {'train': 60, 'val': 20, 'test': 20}
    """
    lists = resources.files("meta_lightning.data.sources") / "splits" / benchmark
    return {split: (lists / f"{split}.txt").read_text().split() for split in SPLITS}


def check_published(split: dict[Split, list[str]], names: Sequence[str], root: str) -> dict[Split, list[str]]:
    """Checks that there are all classes of a published split. Other classes are left out, with a note.

    Args:
        split: The classes of each split.
        names: The names of the classes that there are.
        root: Where they are, for messages.

    Raises:
        ConfigError: If a class is missing.
    """
    listed = {name for members in split.values() for name in members}
    if missing := sorted(listed.difference(names)):
        raise ConfigError(
            f"data.source.root: {root} lacks {len(missing)} of the {len(listed)} classes, the first "
            f"{missing[0]!r}; expected all of them: correct the names of the folders, or read them as a Folder"
        )
    if others := [name for name in names if name not in listed]:
        notify(
            f"Note: {len(others)} classes of {root} are in no split and are left out, the first {printable(others[0])}"
        )
    return split


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
    owners: dict[str, Split] = {}
    for text, member in dict.fromkeys(zip(splits, members, strict=True)):
        split = split_named(text)
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


def read_split_file(path: Path, names: Sequence[str], root: object) -> dict[Split, list[str]]:
    """Reads the classes of each split from a YAML or JSON file.

    Args:
        path: A mapping of ``train``, ``val`` and ``test`` to lists of class names.
        names: The names of the classes that there are. Those in no split are left out, with a note.
        root: Where they are, for messages.

    Raises:
        ConfigError: If the file is not such a mapping, or names a class that there is not, or names one twice.
    """
    key = "data.source.split_file"
    expected = "expected the lists train, val and test of class names"
    try:
        # All of it is text: a class may be called 1 or no.
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{key}: {path} can't be read ({' '.join(str(error).split())}); {expected}") from error
    if not isinstance(content, dict) or not all(
        isinstance(members, list) and all(isinstance(name, str) for name in members) for members in content.values()
    ):
        raise ConfigError(f"{key}: {path} is not a mapping of lists; {expected}")
    if unknown := [name for name in content if name not in SPLITS]:
        raise ConfigError(f"{key}: {path} has the key {printable(unknown[0])!r}; {expected}")
    content = {split: [unicodedata.normalize("NFC", name) for name in members] for split, members in content.items()}
    owner: dict[str, str] = {}
    present = {*names}
    for split, members in content.items():
        for name in members:
            if name in owner:
                raise ConfigError(
                    f"{key}: {path} has class {printable(name)!r} in {owner[name]} and in {split}; expected each class "
                    "once"
                )
            if name not in present:
                raise ConfigError(
                    f"{key}: {path} has class {printable(name)!r} in {split}, but {root} has no such class; correct "
                    "the name"
                )
            owner[name] = split
    if left := [name for name in names if name not in owner]:
        shown = ", ".join(map(printable, left[:_MAX_NAMES])) + (", ..." if len(left) > _MAX_NAMES else "")
        notify(f"Note: {len(left)} classes of {root} are in no split of {path} and are left out: {shown}")
    return {split: content[split] for split in SPLITS if split in content}
