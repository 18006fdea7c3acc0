"""An episode is a function of (seed, split, index), whoever draws it and however it is batched."""

import itertools

import pytest
import torch
from torch.utils.data.distributed import DistributedSampler

from meta_lightning.data import Sinusoid
from meta_lightning.data.episodes import SPLITS, MetaBatches, ResumingSampler, keys
from meta_lightning.data.episodes import draw as draw_episodes
from meta_lightning.types import EpisodeShape

from .hashing import episode_hash

CLASSES = EpisodeShape(ways=4, shots=2, queries=3)


@pytest.fixture(params=["sinusoid", "none", "per_task", "as_classes"])
def family(request, coded_table):
    """Functions, and classes with every kind of rotation."""
    return Sinusoid().load("train") if request.param == "sinusoid" else coded_table(rotations=request.param)


def draw(family, indices, seed=0, split="train", shape=CLASSES):
    """Every tensor of the episodes, inputs and targets."""
    task = family.draw(keys(seed, split, torch.as_tensor(indices)), shape)
    return [*task.support, *task.query]


def same(one, other):
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_an_episode_is_the_same_in_any_batch(family):
    batch = draw(family, [3, 7, 2**40])
    for place, index in enumerate([3, 7, 2**40]):
        assert same([tensor[place] for tensor in batch], [tensor[0] for tensor in draw(family, [index])])


def test_an_episode_is_the_same_every_time(family):
    before = draw(family, [5])
    torch.manual_seed(99)
    draw(family, range(10))
    assert same(draw(family, [5]), before)


@pytest.mark.parametrize(
    "other", [{"indices": [1]}, {"seed": 1}, {"split": "val"}, {"split": "test"}], ids=lambda other: str(other)
)
def test_episodes_differ_between_indices_seeds_and_splits(family, other):
    assert not same(draw(family, [0]), draw(family, **{"indices": [0], **other}))


def test_no_two_of_a_thousand_episodes_are_alike(family):
    inputs = draw(family, range(1000))[0].flatten(1)
    assert len(inputs.unique(dim=0)) == 1000


@pytest.mark.parametrize("rotations", ["none", "per_task", "as_classes"])
def test_support_and_query_share_no_picture(coded_table, decode, rotations):
    support, _, query, _ = draw(coded_table(rotations=rotations), range(50))
    for one, other in zip(support, query, strict=True):
        known, asked = [decode(picture) for picture in one], [decode(picture) for picture in other]
        assert len(set(known)) == 4 * 2
        assert len(set(asked)) == 4 * 3
        assert set(known).isdisjoint(asked)


@pytest.mark.parametrize("rotations", ["none", "per_task", "as_classes"])
def test_labels_are_numbers_from_zero_equally_often(coded_table, rotations):
    _, known, _, asked = draw(coded_table(rotations=rotations), range(50))
    for labels, each in ((known, 2), (asked, 3)):
        assert labels.dtype == torch.int64
        for row in labels:
            assert row.bincount().tolist() == [each] * 4


@pytest.mark.parametrize("rotations", ["none", "per_task", "as_classes"])
def test_a_label_means_one_class_in_support_and_query(coded_table, decode, rotations):
    support, known, query, asked = draw(coded_table(rotations=rotations), range(50))
    for task in range(50):
        meaning = {}
        for picture, label in zip([*support[task], *query[task]], [*known[task], *asked[task]], strict=True):
            meaning.setdefault(label.item(), set()).add(decode(picture)[:2])
        assert [len(classes) for classes in meaning.values()] == [1] * 4
        assert len(set.union(*meaning.values())) == 4


def indices(batches, count):
    return [batches[number].tolist() for number in range(count)]


def test_meta_batch_s_serves_the_s_th_run_of_indices():
    assert indices(MetaBatches(lambda drawn: drawn, 3), 3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_share_a_meta_batch_out(world_size):
    ranks = [MetaBatches(lambda drawn: drawn, 6, rank, world_size) for rank in range(world_size)]
    for number in range(3):
        shares = [rank[number].tolist() for rank in ranks]
        assert {len(share) for share in shares} == {6 // world_size}
        assert sorted(itertools.chain(*shares)) == [*range(6 * number, 6 * number + 6)]


def test_ranks_draw_the_episodes_of_a_single_process(family):
    alone = MetaBatches(lambda drawn: draw(family, drawn), 4)[5]
    first, second = (MetaBatches(lambda drawn: draw(family, drawn), 4, rank, 2)[5] for rank in range(2))
    together = [torch.stack(pair, 1).flatten(0, 1) for pair in zip(first, second, strict=True)]
    assert same(together, alone)


def test_the_last_meta_batch_may_be_smaller():
    assert indices(MetaBatches(lambda drawn: drawn, 4, total=10), 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_ranks_share_a_smaller_last_meta_batch_out():
    ranks = [MetaBatches(lambda drawn: drawn, 4, rank, 2, total=11) for rank in range(2)]
    assert [indices(rank, 3) for rank in ranks] == [[[0, 2], [4, 6], [8, 10]], [[1, 3], [5, 7], [9]]]


def test_the_sampler_goes_on_from_where_training_stands():
    done = 0
    sampler = ResumingSampler(4, lambda: done)
    assert [*sampler] == [0, 1, 2, 3]
    done = 7  # asked for when iteration begins, not when the sampler is made
    assert [*sampler] == [7, 8, 9, 10]
    assert len(sampler) == 4


def test_epochs_neither_shuffle_nor_move_the_sampler():
    sampler = ResumingSampler(3, lambda: 5)
    sampler.set_epoch(2)
    assert [*sampler] == [5, 6, 7]
    # Of this type Lightning puts no shuffling sampler in its place.
    assert isinstance(sampler, DistributedSampler)


# What the episodes are made of; a change of any makes other episodes, and so another hash.
ASKED = {"seed": 0, "split": "test", "shape": CLASSES, "tasks": 20}


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"split": "val"},
        {"shape": CLASSES._replace(shots=1)},
        {"shape": CLASSES._replace(queries=2)},
        {"tasks": 19},
    ],
    ids=lambda other: str(other),
)
def test_the_hash_changes_with_what_is_asked(family, other):
    assert episode_hash(family, **{**ASKED, **other}) != episode_hash(family, **ASKED)


def test_the_hash_tells_a_shot_from_a_query(family):
    # Five examples either way: the same pictures and inputs, another task.
    swapped = {**ASKED, "shape": CLASSES._replace(shots=3, queries=2)}
    assert episode_hash(family, **swapped) != episode_hash(family, **ASKED)


def test_the_hash_changes_with_the_ways(coded_table):
    fewer = {**ASKED, "shape": CLASSES._replace(ways=3)}
    assert episode_hash(coded_table(), **fewer) != episode_hash(coded_table(), **ASKED)


def test_the_hash_changes_with_a_name_and_not_with_a_pixel(coded_table):
    table = coded_table()
    before = episode_hash(table, **ASKED)
    table.x.zero_()
    assert episode_hash(table, **ASKED) == before
    table.names[2] = "another"
    assert episode_hash(table, **ASKED) != before


def test_the_hash_changes_with_the_rotations(coded_table):
    assert len({episode_hash(coded_table(rotations=kind), **ASKED) for kind in ("none", "per_task", "as_classes")}) == 3


def test_the_hash_is_short_and_the_same_every_time(family):
    before = episode_hash(family, **ASKED)
    torch.manual_seed(99)
    assert episode_hash(family, **ASKED) == before
    assert len(before) == 16
    assert set(before) <= set("0123456789abcdef")


# Every published figure belongs to episodes with such a hash: these never change.
def test_the_sinusoid_s_test_episodes_are_fixed_for_ever():
    found = episode_hash(Sinusoid().load("test"), 0, "test", EpisodeShape(None, shots=5, queries=100), 600)
    assert found == "52a9d9b673b253b8"


def test_test_episodes_of_classes_are_fixed_for_ever(coded_table):
    found = [episode_hash(coded_table(rotations=kind), **ASKED) for kind in ("none", "per_task", "as_classes")]
    assert found == ["c6a263752bab95a2", "616c1c32d870f303", "ef18b32b8ca267d8"]


def test_no_two_splits_share_a_tasks_key():
    family, shape = Sinusoid().load("train"), EpisodeShape(None, 1, 1)
    tasks = [draw_episodes(family, seed, split, shape, torch.arange(300)) for split in SPLITS for seed in (0, 1)]
    every_key = torch.cat([task.key for task in tasks])
    assert len(every_key.unique()) == len(every_key)
    assert torch.equal(tasks[0].index, tasks[-1].index)
