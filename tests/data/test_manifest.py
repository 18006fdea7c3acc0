"""A manifest is believed only after its episodes were checked, whoever wrote it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_lightning.data import EpisodicDataModule, Sinusoid, Source
from meta_lightning.data.manifest import Manifest, write_manifest
from meta_lightning.data.sources import ClassTable, LabelledImages
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape, Split

SHAPE = EpisodeShape(ways=3, shots=2, queries=3)


class Vectors(Source):
    """Eight classes of vectors; ``rotations`` makes pictures of them."""

    def __init__(self, rotations: Any = None, classes: int = 8, examples: int = 6) -> None:
        self._rotations, self._size = rotations, (classes, examples)

    def prepare(self) -> None:
        pass

    def load(self, split: Split) -> ClassTable:
        generator = torch.Generator().manual_seed("train val test".index(split))
        names = [f"{split}{number}" for number in range(self._size[0])]
        if self._rotations is None:
            return ClassTable(torch.randn(*self._size, 4, generator=generator), names, split=split)
        pictures = torch.randint(256, (*self._size, 1, 4, 4), generator=generator, dtype=torch.uint8)
        return LabelledImages(pictures, names, rotations=self._rotations, split=split)

    def fingerprint(self) -> str:
        return f"vectors {self._rotations}"


def module(source: Source, tasks: int = 6, shape: EpisodeShape = SHAPE, **options: Any) -> EpisodicDataModule:
    ways, shots, queries = shape
    return EpisodicDataModule(source, shots, queries, ways, test_tasks=tasks, **options)


def rewrite(source: Source, edit: Callable[[list[Any]], Any], tasks: int = 6, shape: EpisodeShape = SHAPE) -> Path:
    """Writes a manifest whose episodes were edited, with the hash of the edited ones."""
    manifest = module(source, tasks, shape).manifest("test")
    edit(episodes := copy.deepcopy(manifest.episodes))
    write_manifest(manifest._replace(episodes=episodes), path := Path("x.json"))
    return path


def support_among_queries(episodes: list[Any]) -> None:
    for episode in episodes:
        for entry in episode:
            entry[-1][2:4] = entry[-1][:2]


def one_episode(episodes: list[Any]) -> None:
    episodes[:] = [episodes[0]] * len(episodes)


EDITS: list[tuple[Callable[[list[Any]], Any], str]] = [
    (support_among_queries, "episode 0 has an example of class test. twice, so support and queries may share it"),
    (lambda it: [episode.pop() for episode in it], "episode 0 has 2 classes; expected 3 distinct classes"),
    (lambda it: it[4].append(it[3][0]), "episode 4 has 4 classes; expected 3 distinct classes"),
    (lambda it: it[2][1][-1].append(5), "episode 2 has 6 examples of class test.; expected .* 5 distinct examples"),
    (lambda it: it[2][1][-1].pop(), "episode 2 has 4 examples of class test.; expected .* 5 distinct examples"),
    (lambda it: it[1].__setitem__(0, it[1][1]), "episode 1 has a class twice; expected 3 distinct classes"),
    (one_episode, "episode 1 is the same as episode 0; expected distinct episodes"),
    (lambda it: it.__setitem__(5, it[3]), "episode 5 is the same as episode 3; expected distinct episodes"),
    (lambda it: it[0][0][-1].__setitem__(0, True), r"episode 0 has a class \["),
    (lambda it: it[0][0][-1].__setitem__(0, 0.5), r"episode 0 has a class \["),
    (lambda it: it[0][0][-1].__setitem__(0, 6), "names content that split 'test' does not have .*example 6"),
    (lambda it: it[0][0].__setitem__(-1, 3), r"episode 0 has a class \["),
    (lambda it: it[0][0].__setitem__(0, "nobody"), "names content that split 'test' does not have .*'nobody'"),
    (lambda it: it.__setitem__(0, 7), "episode 0 is not a list of classes"),
]


@pytest.mark.parametrize("rotations", [None, "none", "per_task", "as_classes"])
@pytest.mark.parametrize(("edit", "message"), EDITS, ids=range(len(EDITS)))
def test_episodes_that_nobody_would_draw_are_refused(rotations: Any, edit: Any, message: str) -> None:
    source = Vectors(rotations)
    path = rewrite(source, edit)
    with pytest.raises(ConfigError, match=rf"^data\.episodes.* {message}.*(write the file again|of this data)$"):
        module(source, episodes=path).setup("test")
    with pytest.raises(ConfigError, match=r"^data\.episodes"):  # from Python, without `setup`
        module(source, episodes=path).draw("test", torch.arange(2))


@pytest.mark.parametrize("source", [Vectors(), Vectors("per_task"), Vectors("as_classes"), Vectors("none")])
def test_honest_episodes_of_any_seed_and_order_are_replayed(source: Vectors) -> None:
    honest = module(source, tasks=600, eval_seed=5)
    path = rewrite(source, lambda it: it.__setitem__(slice(None), [*honest.manifest("test").episodes][::-1]), 600)
    replayed = module(source, tasks=600, episodes=path)
    replayed.setup("test")
    last = replayed.draw("test", torch.tensor([599])).support.x
    assert torch.equal(last, honest.draw("test", torch.tensor([0])).support.x)


def test_a_few_classes_whose_seed_draws_an_episode_twice_are_replayed() -> None:
    source, shape = Vectors(classes=2, examples=2), EpisodeShape(2, 1, 1)
    manifest = module(source, 40, shape).manifest("test")
    assert len({json.dumps(episode) for episode in manifest.episodes}) < 40
    write_manifest(manifest, Path("x.json"))
    module(source, 40, shape, episodes=Path("x.json")).setup("test")


def test_a_class_may_come_in_two_rotations_where_rotations_are_classes() -> None:
    def turn(episodes: list[Any]) -> None:
        (name, turns, rows), *rest = episodes[0]
        episodes[0] = [[name, turns, rows], [name, (turns + 1) % 4, rows], rest[0]]

    path = rewrite(Vectors("as_classes"), turn)
    module(Vectors("as_classes"), episodes=path).setup("test")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda it: it[2].__setitem__(4, it[2][2]), "episode 2 has input .* in support and query; expected distinct"),
        (lambda it: it[2].pop(), r"episode 2 has 4 inputs; expected 2 \+ 3"),
        (one_episode, "episode 1 is the same as episode 0; expected distinct episodes"),
        (lambda it: it[1].__setitem__(0, "9"), r"episode 1 has an amplitude of 9\.0; expected 0\.1 to 5\.0"),
        (lambda it: it[1].__setitem__(1, "nan"), "episode 1 has a phase of nan; expected 0"),
        (lambda it: it[1].__setitem__(3, "-6"), r"episode 1 has an input of -6\.0; expected -5\.0 to 5\.0"),
        (lambda it: it[1].__setitem__(3, 10**400), "episode 1 is not a list of an amplitude, a phase and inputs"),
        (lambda it: it.__setitem__(1, {}), "episode 1 is not a list of an amplitude, a phase and inputs"),
    ],
)
def test_sinusoids_that_nobody_would_draw_are_refused(edit: Any, message: str) -> None:
    shape = EpisodeShape(None, 2, 3)
    path = rewrite(Sinusoid(), edit, shape=shape)
    with pytest.raises(ConfigError, match=rf"^data\.episodes: {message}"):
        module(Sinusoid(), shape=shape, episodes=path).setup("test")


def test_sinusoids_of_another_seed_are_replayed() -> None:
    shape = EpisodeShape(None, 2, 3)
    other = module(Sinusoid(), 600, shape, eval_seed=3).manifest("test").episodes
    path = rewrite(Sinusoid(), lambda it: it.__setitem__(slice(None), other), 600, shape)
    module(Sinusoid(), 600, shape, episodes=path).setup("test")


def test_a_shape_of_truth_values_is_no_shape() -> None:
    manifest = module(Vectors(), shape=(shape := EpisodeShape(3, 1, 3))).manifest("test")
    write_manifest(Manifest(*manifest[:3], shape._replace(shots=True), manifest.episodes), Path("x.json"))
    with pytest.raises(ConfigError, match=r"x\.json can't be read \(ValueError: shape .*True"):
        module(Vectors(), shape=shape, episodes=Path("x.json")).setup("test")
