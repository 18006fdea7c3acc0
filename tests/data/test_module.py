"""The data module: which episodes a loader serves, to which process, and what it refuses."""

import re
from types import SimpleNamespace

import pytest
import torch

from meta_lightning.data import EpisodicDataModule, Sinusoid, Source
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape

from .hashing import episode_hash


class Coded(Source):
    """A source of coded pictures that notes which splits were asked for."""

    def __init__(self, make):
        self.tables = {split: make() for split in ("train", "val", "test")}
        for number, (split, table) in enumerate(self.tables.items()):
            table.names = [f"{split} {name}" for name in table.names]
            table.x[:, 0, 0, 0] += 10 * number
        self.loaded = []
        self.prepared = 0

    def prepare(self):
        self.prepared += 1

    def load(self, split):
        self.loaded.append(split)
        return self.tables[split]

    def fingerprint(self):
        return "coded"

    def constants(self):
        return {"scale": 1 / 255}


@pytest.fixture
def source(coded_table):
    return Coded(coded_table)


def trainer(device="cpu", **settings):
    """What the module asks of a trainer."""
    return SimpleNamespace(
        **{"world_size": 1, "global_rank": 0, "max_steps": 5, "global_step": 0, **settings},
        precision_plugin=SimpleNamespace(convert_input=lambda batch: batch),
        strategy=SimpleNamespace(root_device=torch.device(device)),
    )


def module(source=None, stages=("fit", "test"), trainer_settings=None, **settings):
    made = EpisodicDataModule(source or Sinusoid(), **{"shots": 2, "queries": 3, **settings})
    made.trainer = trainer(**(trainer_settings or {}))
    for stage in stages:
        made.setup(stage)
    return made


def tensors(task):
    return [*task.support, *task.query, task.index]


def same(one, other):
    return all(torch.equal(left, right) for left, right in zip(tensors(one), tensors(other), strict=True))


def indices(loader):
    return [task.index.tolist() for task in loader]


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    "key",
    [
        "ways",
        "shots",
        "queries",
        "train_ways",
        "train_shots",
        "train_queries",
        "meta_batch_size",
        "eval_batch_size",
        "val_tasks",
        "test_tasks",
    ],
)
def test_a_count_below_one_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^data\.{key} is {value}; expected 1 or more$"):
        EpisodicDataModule(Sinusoid(), **{key: value})


def test_training_episodes_have_the_shape_of_evaluation_unless_told(source):
    plain = module(source, ways=3)
    assert plain.train_shape == plain.eval_shape == EpisodeShape(3, 2, 3)
    other = module(source, ways=3, train_ways=5, train_shots=1, train_queries=4)
    assert other.eval_shape == EpisodeShape(3, 2, 3)
    assert other.train_shape == EpisodeShape(5, 1, 4)
    partly = module(source, ways=3, train_shots=1)
    assert partly.train_shape == EpisodeShape(3, 1, 3)


def test_batches_have_the_shape_of_their_split(source):
    data = module(source, ways=3, train_ways=5, train_shots=1, train_queries=4, meta_batch_size=2, val_tasks=4)
    assert next(iter(data.train_dataloader())).support.x.shape == (2, 5 * 1, 1, 2, 2)
    assert next(iter(data.train_dataloader())).query.x.shape == (2, 5 * 4, 1, 2, 2)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        task = next(iter(loader))
        assert task.support.x.shape == (2, 3 * 2, 1, 2, 2)
        assert task.query.x.shape == (2, 3 * 3, 1, 2, 2)


def test_meta_step_s_gets_meta_batch_s():
    data = module(meta_batch_size=3)
    assert indices(data.train_dataloader()) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12, 13, 14]]


def test_a_resumed_run_gets_what_the_whole_run_got():
    whole = [*module(meta_batch_size=3).train_dataloader()]
    data = module(meta_batch_size=3)
    loader = data.train_dataloader()
    data.trainer.global_step = 2  # restored after the loader was made
    for expected, found in zip(whole[2:], loader, strict=False):
        assert same(expected, found)


def test_an_epoch_ends_with_the_last_step_or_as_good_as_never():
    assert len(module(trainer_settings={"max_steps": 7}).train_dataloader()) == 7
    assert len(module(trainer_settings={"max_steps": -1}).train_dataloader()) > 10**8


def test_evaluation_serves_each_of_its_episodes_once():
    data = module(eval_batch_size=4, val_tasks=10, test_tasks=3, trainer_settings={"global_step": 5})
    assert indices(data.val_dataloader()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert indices(data.test_dataloader()) == [[0, 1, 2]]
    assert len(data.val_dataloader()) == 3


def test_as_many_tasks_are_evaluated_at_once_as_are_trained_unless_told():
    assert len(module(meta_batch_size=5, val_tasks=10).val_dataloader()) == 2
    assert len(module(meta_batch_size=5, eval_batch_size=10, val_tasks=10).val_dataloader()) == 1


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_processes_share_the_episodes_of_one(loader):
    settings = {"meta_batch_size": 4, "val_tasks": 12, "test_tasks": 12}
    alone = [*getattr(module(**settings), loader)()]
    ranks = [
        [*getattr(module(**settings, trainer_settings={"world_size": 2, "global_rank": rank}), loader)()]
        for rank in range(2)
    ]
    for whole, *shares in zip(alone, *ranks, strict=True):
        # The first process has the even tasks, the second the odd ones.
        pairs = zip(*map(tensors, shares), strict=True)
        together = [torch.stack(pair, 1).flatten(0, 1) for pair in pairs]
        assert all(torch.equal(left, right) for left, right in zip(tensors(whole), together, strict=True))


def test_a_meta_batch_that_processes_cannot_share_evenly_is_refused():
    data = module(meta_batch_size=4, trainer_settings={"world_size": 3})
    text = r"data\.meta_batch_size is 4, which 3 processes can't share equally; choose a multiple of 3"
    with pytest.raises(ConfigError, match=text):
        data.train_dataloader()


def first(data, split):
    return data.draw(split, torch.arange(20))


def test_the_seed_moves_training_episodes_alone():
    one, other = module(seed=1), module(seed=2)
    assert not same(first(one, "train"), first(other, "train"))
    for split in ("val", "test"):
        assert same(first(one, split), first(other, split))
        assert one.episode_hash(split) == other.episode_hash(split)


def test_the_evaluation_seed_moves_evaluation_episodes_alone():
    one, other = module(eval_seed=1), module(eval_seed=2)
    assert same(first(one, "train"), first(other, "train"))
    for split in ("val", "test"):
        assert not same(first(one, split), first(other, split))
        assert one.episode_hash(split) != other.episode_hash(split)


def test_without_a_seed_training_draws_as_from_seed_0():
    assert same(first(module(), "train"), first(module(seed=0), "train"))


def test_training_and_evaluation_draw_apart_from_one_seed():
    data = module(seed=0, eval_seed=0)
    drawn = [first(data, split).support.x for split in ("train", "val", "test")]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_the_hash_is_of_the_episodes_that_are_served(source):
    data = module(source, ways=3, eval_seed=4, val_tasks=7, test_tasks=9)
    assert data.episode_hash("val") == episode_hash(source.tables["val"], 4, "val", EpisodeShape(3, 2, 3), 7)
    assert data.episode_hash("test") == episode_hash(source.tables["test"], 4, "test", EpisodeShape(3, 2, 3), 9)


@pytest.mark.parametrize(
    ("device", "cached", "pinned"), [("cpu", False, False), ("cuda", False, True), ("cuda", True, False)]
)
def test_memory_is_pinned_for_a_gpu_that_trains(device, cached, pinned):
    data = module(trainer_settings={"device": device}, device_cache=cached)
    assert data.train_dataloader().pin_memory is pinned


def test_a_batch_is_moved_where_it_is_not_yet(source):
    data = module(source, ways=3)
    drawn = first(data, "train")
    assert data.transfer_batch_to_device(drawn, torch.device("cpu"), 0) is drawn
    moved = data.transfer_batch_to_device(drawn, torch.device("meta"), 0)
    assert {tensor.device.type for tensor in (*moved.support, *moved.query, moved.index)} == {"meta"}


def test_pictures_become_floats_on_their_way_to_the_net(source):
    data = module(source, ways=3)
    stored = first(data, "train")
    ready = data.on_after_batch_transfer(stored, 0)
    for before, after in ((stored.support, ready.support), (stored.query, ready.query)):
        assert before.x.dtype == torch.uint8
        assert after.x.dtype == torch.float32
        torch.testing.assert_close(after.x * 255, before.x.float())
        assert 0 <= after.x.min() < 0.01
        assert 0.7 < after.x.max() <= 1
        assert torch.equal(after.y, before.y)
    assert torch.equal(ready.index, stored.index)


@pytest.mark.parametrize(
    ("stage", "splits"), [("fit", ["train", "val"]), ("validate", ["val"]), ("test", ["test"])], ids=str
)
def test_a_stage_loads_its_own_splits(source, stage, splits):
    module(source, stages=[stage], ways=3)
    assert source.loaded[: len(splits)] == splits
    assert sorted(source.loaded) == ["test", "train", "val"]  # the others are loaded to be compared


def test_data_is_prepared_by_the_source(source):
    module(source, stages=[]).prepare_data()
    assert source.prepared == 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, r"data\.ways is not set"),
        ({"ways": 7}, r"data\.ways is 7, but .* 6 classes"),
        ({"ways": 3, "train_ways": 7}, r"^data\.train_ways is 7, but .* 6 classes; lower data\.train_ways$"),
        ({"ways": 7, "train_shots": 1}, r"^data\.ways is 7, but .* 6 classes; lower data\.ways$"),
        (
            {"ways": 3, "train_shots": 5},
            r"^data\.train_shots \+ data\.queries is 5 .*data\.train_shots or data\.queries$",
        ),
        ({"ways": 3, "train_shots": 5, "train_queries": 4}, r"^data\.train_shots \+ data\.train_queries is 5 \+ 4 = 9"),
        ({"ways": 3, "shots": 5}, r"data\.shots \+ data\.queries is 5 \+ 3 = 8, but .* 7 examples"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused_at_setup(source, settings, text):
    with pytest.raises(ConfigError, match=text):
        module(source, stages=["fit"], **settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"val_tasks": 2**31}, "data.val_tasks is 2147483648; expected at most 2147483647"),
        ({"val_tasks": 0}, "data.val_tasks is 0; expected 1 or more"),
        ({"eval_seed": 2**32}, "data.eval_seed is 4294967296; expected at most 4294967295"),
        ({"seed": -1}, "data.seed is -1; expected 0 or more"),
    ],
)
def test_a_number_out_of_bounds_is_told_the_bound(settings, text):
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        module(**settings)


def test_checkpoints_remember_the_data(source):
    assert module(source, ways=3, train_shots=1, seed=7).state_dict() == {
        "source": "coded",
        "constants": {"scale": 1 / 255},
        "train_shape": [3, 1, 3],
        "meta_batch_size": 4,
        "seed": 7,
        "eval_shape": [3, 2, 3],
        "eval_seed": 0,
        "val_tasks": 200,
    }


def test_workers_serve_the_same_meta_batches():
    settings = {"meta_batch_size": 2, "trainer_settings": {"global_step": 3, "max_steps": 4}}
    expected = [*module(**settings).train_dataloader()]
    found = [*module(**settings, num_workers=2).train_dataloader()]
    assert indices(found) == [[6, 7], [8, 9], [10, 11], [12, 13]]
    assert all(same(*pair) for pair in zip(expected, found, strict=True))
