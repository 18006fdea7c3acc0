"""Splits are compared whoever wrote the source."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from meta_lightning.data import EpisodicDataModule, Glyphs, Sinusoid, Source
from meta_lightning.data.sources import ClassTable, Family
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape, Inputs, Split, Task

WAYS, CLASSES, EXAMPLES = 3, 6, 5


def vectors(split: Split) -> Tensor:
    return torch.randn(CLASSES, EXAMPLES, 20, generator=torch.Generator().manual_seed(len(split)))


def names(split: Split) -> list[str]:
    return [f"{split}{number}" for number in range(CLASSES)]


class Own(Source):
    """Somebody's source, whose splits a function makes."""

    def __init__(self, load: Callable[[Split], Family]) -> None:
        self._load = load

    def prepare(self) -> None:
        pass

    def load(self, split: Split) -> Family:
        return self._load(split)

    def fingerprint(self) -> str:
        return "own"


def setup(load: Callable[[Split], Family], stage: str = "fit") -> None:
    data = EpisodicDataModule(Own(load), ways=WAYS, shots=1, queries=2)
    data.setup(stage)
    data.setup(stage)  # compared once


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    ("load", "shared"),
    [
        (lambda split: ClassTable(vectors("train"), names("train"), split=split), "a class: 'train0' and 'train0'"),
        (lambda split: ClassTable(vectors(split), names("train"), split=split), "a class: 'train0' and 'train0'"),
        (lambda split: ClassTable(vectors("train"), names(split), split=split), "an example: 'train0' and 'val0'"),
        (lambda split: ClassTable({"a": vectors("train")[..., :3], "b": vectors("train").bfloat16()}, names(split)),
         "an example: 'train0' and 'val0'"),
        (lambda split: ClassTable(vectors("train").flatten(0, 1), names(split), [4, 6, 5, 5, 5, 5]),
         "an example: 'train0' and 'val0'"),
    ],
)  # fmt: skip
def test_splits_that_share_are_refused(load: Callable[[Split], Family], shared: str, stage: str) -> None:
    with pytest.raises(ConfigError, match=rf"^splits 'train' and 'val' share {shared}; expected disjoint splits"):
        setup(load, stage)


def test_a_single_shared_example_of_the_split_not_in_use_is_found() -> None:
    def load(split: Split) -> ClassTable:
        x = vectors(split)
        if split == "test":
            x[4, 3] = vectors("train")[2, 1]
        return ClassTable(x, names(split))

    with pytest.raises(ConfigError, match=r"splits 'train' and 'test' share an example: 'train2' and 'test4'"):
        setup(load)


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"split 'train' has two classes of the name 'a'; expected distinct names"):
        setup(lambda split: ClassTable(vectors(split), ["a", "a", *names(split)[2:]]))


def test_names_that_do_not_fit_the_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"split 'val' has 30 examples, but its 5 names and counts make 25"):
        ClassTable(vectors("val"), names("val")[:5], split="val")


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda x: x.copy_(x[:, :1].clone().expand_as(x)),
         "split 'train' has classes with few distinct examples: train0 (1 of 5), train1 (1 of 5), train2 (1 of 5), "
         "train3 (1 of 5), train4 (1 of 5) and 1 more"),
        (lambda x: x[2, 1:4].copy_(x[2, :1].clone().expand(3, 20)),
         "split 'train' has classes with few distinct examples: train2 (2 of 5)"),
        (lambda x: x[3, 4].copy_(x[1, 2]), "split 'train' has an example in two classes: train1 and train3"),
    ],
)  # fmt: skip
def test_copies_inside_a_split_give_a_warning(
    change: Callable[[Tensor], Any], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(split: Split) -> ClassTable:
        x = vectors(split)
        if split == "train":
            change(x)
        return ClassTable(x, names(split))

    setup(load)
    assert capsys.readouterr().out.count(f"Warning: {warning}") == 1


def test_a_single_copy_and_honest_sources_give_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    def load(split: Split) -> ClassTable:
        x = vectors(split)
        x[0, 1] = x[0, 0]
        return ClassTable(x, names(split))

    setup(load)
    for source, ways in ((Glyphs(), 5), (Sinusoid(), None)):
        EpisodicDataModule(source, ways=ways).setup("fit")
    assert capsys.readouterr().out == ""


def test_a_split_that_can_not_be_loaded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def load(split: Split) -> ClassTable:
        if split == "test":
            raise FileNotFoundError("no test data yet")
        return ClassTable(vectors(split), names(split))

    setup(load)
    note = "Note: split 'test' is not compared with the others, as it can't be loaded: no test data yet\n"
    assert capsys.readouterr().out == note
    with pytest.raises(FileNotFoundError):
        setup(load, "test")


class Wrapped:
    """A family without a table, around one."""

    def __init__(self, table: Family, fixed: bool = False) -> None:
        self._table, self._fixed = table, fixed

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        return self._table.draw(torch.arange(len(keys)) if self._fixed else keys, shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)


def test_families_without_a_table_are_compared_by_their_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    setup(lambda split: Wrapped(ClassTable(vectors(split), names(split))))
    setup(lambda split: Wrapped(Sinusoid().load(split), fixed=False), stage="other")
    assert capsys.readouterr().out == ""
    setup(lambda split: Wrapped(ClassTable(vectors("train"), names(split))))
    assert "Warning: splits 'train' and 'val' share examples (" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"splits 'train' and 'val' draw the same episodes; expected other tasks in"):
        setup(lambda split: Wrapped(ClassTable(vectors("train"), names(split)), fixed=True))


class Numbered(ClassTable):
    """Holds the numbers of the examples, and makes them when they are drawn."""

    def take(self, positions: Tensor, variants: Tensor) -> Inputs:
        numbers = super().take(positions, variants)
        assert isinstance(numbers, Tensor)
        return (numbers + len(self.names[0])).double().sin()[..., None].expand(*numbers.shape, 20)


def test_a_table_of_numbers_is_compared_by_what_it_draws(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = torch.arange(CLASSES * EXAMPLES).view(CLASSES, EXAMPLES)
    lengths = {"train": 100, "val": 200, "test": 300}
    setup(lambda split: Numbered(numbers, [f"{number:0{lengths[split]}}" for number in range(CLASSES)]))
    assert capsys.readouterr().out == ""
