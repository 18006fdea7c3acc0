"""Tasks from a table of labelled pictures."""

from collections import Counter

import pytest
import torch

from meta_lightning.data.episodes import keys
from meta_lightning.data.sources import LabelledImages
from meta_lightning.data.sources.overlap import check_disjoint
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape

SHAPE = EpisodeShape(ways=4, shots=2, queries=3)


def draw(table, tasks, shape=SHAPE):
    return table.draw(keys(0, "train", torch.arange(tasks)), shape)


def describe(table, tasks, shape=SHAPE):
    return table.describe(keys(0, "train", torch.arange(tasks)), shape)


def by_class(task, part, shape=SHAPE):
    """The pictures of one task, ``[ways, examples, channels, height, width]``."""
    return part.x[task][part.y[task].argsort(stable=True)].unflatten(0, (shape.ways, -1))


def test_pictures_come_as_stored_by_class(coded_table):
    task = draw(coded_table(), 6)
    assert task.support.x.dtype == torch.uint8
    assert task.support.x.shape == (6, 4 * 2, 1, 2, 2)
    assert task.query.x.shape == (6, 4 * 3, 1, 2, 2)
    assert task.support.y.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 6
    assert task.query.y.sort().values.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]] * 6


@pytest.mark.parametrize("rotations", ["none", "per_task", "as_classes"])
def test_the_description_is_of_the_pictures_drawn(coded_table, decode, rotations):
    table = coded_table(rotations=rotations)
    task = draw(table, 30)
    for number, described in enumerate(describe(table, 30)):
        pictures = torch.cat([by_class(number, task.support), by_class(number, task.query)], 1)
        for (name, turn, examples), row in zip(described, pictures, strict=True):
            assert [decode(picture) for picture in row] == [
                (table.names.index(name), turn, example) for example in examples
            ]


@pytest.mark.parametrize("rotations", ["per_task", "as_classes"])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotations_are_those_of_torch(rotations, channels):
    images = torch.randint(256, (5, 6, channels, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    table = LabelledImages(images, [*"abcde"], rotations=rotations)
    task, turns = draw(table, 20), set()
    for number, described in enumerate(describe(table, 20)):
        for label, (name, turn, examples) in enumerate(described):
            expected = torch.rot90(images["abcde".index(name), examples], turn, (-2, -1))
            assert torch.equal(by_class(number, task.support)[label], expected[:2])
            assert torch.equal(by_class(number, task.query)[label], expected[2:])
            turns.add(turn)
    assert turns == {0, 1, 2, 3}


def test_without_rotations_pictures_stay_upright(coded_table):
    assert {turn for task in describe(coded_table(), 50) for _, turn, _ in task} == {0}


def test_turns_per_task_are_equally_frequent_and_change_with_the_task(coded_table):
    drawn = Counter(
        (name, turn) for task in describe(coded_table(rotations="per_task"), 3000) for name, turn, _ in task
    )
    # 24 pairs, 3000 * 4 draws: 500 each, and 100 is more than four standard deviations.
    assert len(drawn) == 24
    assert all(400 < count < 600 for count in drawn.values())


def test_classes_of_a_task_turn_apart(coded_table):
    alike = Counter(
        len({turn for _, turn, _ in task}) == 1 for task in describe(coded_table(rotations="per_task"), 500)
    )
    # Four turns are one and the same in one task of 64.
    assert 0 < alike[True] < 30


def test_turns_as_classes_make_four_times_as_many(coded_table):
    table = coded_table(classes=3, rotations="as_classes")
    everything = EpisodeShape(ways=12, shots=1, queries=1)
    table.check(everything)
    for task in describe(table, 5, everything):
        assert {(name, turn) for name, turn, _ in task} == {(f"class{n}", turn) for n in range(3) for turn in range(4)}
    with pytest.raises(ConfigError, match=r"data\.ways is 13, but split 'train' has 12 classes"):
        table.check(everything._replace(ways=13))


@pytest.mark.parametrize("rotations", ["none", "per_task"])
def test_a_class_appears_once_in_a_task(coded_table, rotations):
    for task in describe(coded_table(rotations=rotations), 50):
        assert len({name for name, _, _ in task}) == 4


def test_a_class_takes_every_label_equally_often(coded_table):
    table = coded_table(classes=4)
    labels = Counter((name, label) for task in describe(table, 4000) for label, (name, _, _) in enumerate(task))
    # 16 pairs: 1000 each, and 120 is more than four standard deviations.
    assert len(labels) == 16
    assert all(880 < count < 1120 for count in labels.values())


def test_every_example_is_drawn_equally_often_for_support_and_query(coded_table):
    drawn = Counter()
    for task in describe(coded_table(), 2000):
        for _, _, examples in task:
            drawn.update((example, place < 2) for place, example in enumerate(examples))
    # 2000 * 4 classes: 8000 * 2 / 7 support and 8000 * 3 / 7 query draws of each of the 7 examples.
    for example in range(7):
        assert drawn[example, True] == pytest.approx(8000 * 2 / 7, rel=0.08)
        assert drawn[example, False] == pytest.approx(8000 * 3 / 7, rel=0.08)


def test_classes_of_a_task_draw_their_examples_apart(coded_table):
    alike = [examples == others for (_, _, examples), (_, _, others), *_ in describe(coded_table(), 200)]
    assert sum(alike) < 5


def test_what_can_be_drawn_passes_the_check(coded_table):
    coded_table(classes=4, examples=5).check(SHAPE)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (SHAPE._replace(ways=5), r"data\.ways is 5, but split 'train' has 4 classes; lower data\.ways"),
        (
            SHAPE._replace(shots=3),
            r"data\.shots \+ data\.queries is 3 \+ 3 = 6, but a class of split 'train' has 5 examples; "
            r"lower data\.shots or data\.queries",
        ),
        (SHAPE._replace(ways=None), r"data\.ways is not set; expected the number of classes of a task"),
    ],
)
def test_what_cannot_be_drawn_is_refused(coded_table, shape, text):
    with pytest.raises(ConfigError, match=text):
        coded_table(classes=4, examples=5).check(shape)


def test_pictures_become_floats_from_zero_to_one(coded_table):
    ready = coded_table().preprocess(torch.tensor([[0, 51, 255]], dtype=torch.uint8))
    assert ready.dtype == torch.float32
    torch.testing.assert_close(ready, torch.tensor([[0.0, 0.2, 1.0]]))


def splits(train_names, val_names, train_start, val_start):
    """Two tables of pictures that count up from a first shade of grey."""

    def table(names, start):
        shades = torch.arange(start, start + 2 * len(names), dtype=torch.uint8)
        return LabelledImages(shades.view(len(names), 2, 1, 1, 1), names)

    return {"train": table(train_names, train_start), "val": table(val_names, val_start)}


def test_disjoint_splits_pass():
    check_disjoint(splits(["a", "b"], ["c", "d"], 0, 4))


def test_a_shared_class_name_is_refused():
    with pytest.raises(ConfigError, match=r"splits 'train' and 'val' share a class: 'b' and 'b'; expected disjoint"):
        check_disjoint(splits(["a", "b"], ["c", "b"], 0, 4))


def test_a_shared_picture_is_refused_under_any_name():
    # Shades 0 to 3 and 3 to 6: the last of class b is the first of class c.
    with pytest.raises(ConfigError, match=r"splits 'train' and 'val' share a picture: 'b' and 'c'; expected disjoint"):
        check_disjoint(splits(["a", "b"], ["c", "d"], 0, 3))


def test_a_picture_may_repeat_within_a_split():
    table = LabelledImages(torch.zeros(2, 2, 1, 1, 1, dtype=torch.uint8), ["a", "b"])
    check_disjoint({"train": table})


@pytest.mark.parametrize(("turn", "example", "said"), [(0, 7, "example 7"), (0, -1, "example -1"), (4, 0, "turn 4")])
def test_a_number_out_of_range_is_refused_before_a_device_sees_it(coded_table, turn, example, said):
    table = coded_table(rotations="per_task")
    described = describe(table, 1, EpisodeShape(1, 1, 1))
    described[0][0][1], described[0][0][2][1] = turn, example
    with pytest.raises(ConfigError, match=rf"data\.episodes names content that split .* does not have \({said}\)"):
        table.rebuild(described, EpisodeShape(1, 1, 1), keys(0, "val", torch.arange(1)))
