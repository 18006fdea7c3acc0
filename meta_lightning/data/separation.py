"""Compares the splits of a source, whoever wrote it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from meta_lightning.console import first_line, notify, printable
from meta_lightning.data.episodes import draw
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.class_table import ClassTable
from meta_lightning.data.sources.images import LabelledImages
from meta_lightning.data.sources.overlap import (
    Contents,
    check_contents_disjoint,
    check_names_disjoint,
    coincidences,
    duplicates,
    hash_rows,
)
from meta_lightning.errors import ConfigError
from meta_lightning.types import SPLITS, EpisodeShape, Split, Task

# The number of episodes that are drawn of each split of a family without a table.
_DRAWN = 8

# Inputs of fewer numbers, such as the points of a grid, may be equal by chance.
_MIN_NUMBERS = 16


def check_separation(
    source: Source, loaded: Mapping[Split, Family], seeds: Mapping[Split, int], shapes: Mapping[Split, EpisodeShape]
) -> None:
    """Checks that the splits of a source share no class, no example and no episode.

    Tables of classes are compared example by example. Of other families, which may draw from an unlimited supply, a few
    episodes of each split are compared.

    Args:
        source: The source. Splits that are not yet loaded are loaded and let go again.
        loaded: The splits that the run uses.
        seeds: The seed of each split's episodes.
        shapes: The shape of each split's episodes.

    Raises:
        ConfigError: If two splits share a class or an example, if a table has two classes of one name, or if two splits
            draw the same episodes. What need not be a mistake gives a warning.
    """
    contents: dict[Split, Contents] = {}
    chance: dict[Split, Contents] = {}
    names: dict[Split, list[str]] = {}
    drawn: dict[Split, _Drawn] = {}
    for split in SPLITS:
        try:
            family = loaded[split] if split in loaded else source.load(split)
            if isinstance(family, ClassTable):
                names[split] = family.names
            if isinstance(family, ClassTable) and _holds_examples(family):
                (chance if _few_numbers(family) else contents)[split] = Contents.of(family)
            else:
                drawn[split] = _Drawn.of(draw(family, seeds[split], split, shapes[split], torch.arange(_DRAWN)))
        except Exception as error:  # a user's `load` or `draw` may raise any
            if split in loaded:
                raise
            notify(f"Note: split {split!r} is not compared with the others, as it can't be loaded: {first_line(error)}")
    for split, known in names.items():
        if len(known) > len({*known}):
            twice = next(name for number, name in enumerate(known) if name in known[:number])
            raise ConfigError(
                f"split {split!r} has two classes of the name {printable(twice)!r}; expected distinct names"
            )
    check_names_disjoint(names)
    check_contents_disjoint(contents)
    for message in coincidences(chance):
        notify(f"Note: {message}")
    _check_drawn(drawn)
    for split in loaded:
        for message in duplicates(split, contents[split]) if split in contents else ():
            notify(f"Warning: {message}")


def _holds_examples(table: ClassTable) -> bool:
    """Whether rows of a table are examples. A subclass may hold file names, say, and read pictures in `take`."""
    return type(table).take in (ClassTable.take, LabelledImages.take)


def _few_numbers(table: ClassTable) -> bool:
    """Whether examples consist of so few numbers, or of such coarse ones, that equal ones may be chance."""
    return table.coarse or sum(part[0].numel() for part in tree_leaves(table.x)) < _MIN_NUMBERS


class _Drawn:
    """Hashes of a few episodes, and of their examples if equal ones can't be a coincidence."""

    def __init__(self, tasks: set[int], examples: set[int]) -> None:
        self.tasks = tasks
        self.examples = examples

    @classmethod
    def of(cls, tasks: Task) -> "_Drawn":
        """The hashes of a meta-batch."""
        x, targets = [tasks.support.x, tasks.query.x], tasks.query.y
        whole = hash_rows({str(number): part for number, part in enumerate(tree_leaves([tasks.support, tasks.query]))})
        examples: list[int] = []
        numbers = sum(part[0, 0].numel() for part in tree_leaves(x[0]))
        if numbers >= _MIN_NUMBERS and isinstance(targets, torch.Tensor) and not targets.is_floating_point():
            flat = [tree_map(lambda part: part.flatten(0, 1), inputs) for inputs in x]
            examples = np.concatenate([hash_rows(inputs) for inputs in flat]).tolist()
        return cls({*whole.tolist()}, {*examples})


def _check_drawn(splits: Mapping[Split, _Drawn]) -> None:
    order = [*splits]
    for number, split in enumerate(order):
        if len(splits[split].tasks) == 1:
            notify(f"Warning: the first {_DRAWN} episodes of split {split!r} are the same: does `draw` use its keys?")
        for owner in order[:number]:
            if splits[split].tasks <= splits[owner].tasks:
                raise ConfigError(
                    f"splits {owner!r} and {split!r} draw the same episodes; expected other tasks in each split: "
                    "correct `load` or `draw` of data.source"
                )
            if shared := len(splits[split].examples & splits[owner].examples):
                notify(
                    f"Warning: splits {owner!r} and {split!r} share examples ({shared} in {_DRAWN} episodes of each), "
                    "so results of one tell little about new tasks: does `load` of data.source keep them apart?"
                )
