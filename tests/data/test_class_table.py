"""Tasks from labelled examples of any shape and type, in classes of unequal size."""

import re

import pytest
import torch

from meta_lightning.data import EpisodicDataModule, Source
from meta_lightning.data.episodes import keys
from meta_lightning.data.sources import ClassTable
from meta_lightning.data.sources.overlap import check_disjoint
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape

COUNTS = [7, 2, 9, 5, 30, 6]
SHAPE = EpisodeShape(ways=3, shots=2, queries=3)


def coded(counts: list[int] = COUNTS, split: str = "train") -> ClassTable:
    """Examples are pairs: the number of their class, and their own within the class."""
    x = torch.tensor([[number, row] for number, count in enumerate(counts) for row in range(count)])
    return ClassTable(x, [f"c{number}" for number in range(len(counts))], counts, split)


def indices(tasks: int = 400) -> torch.Tensor:
    return keys(0, "train", torch.arange(tasks))


def test_examples_come_from_their_classes_in_the_order_described() -> None:
    table = coded()
    task, described = table.draw(indices(), SHAPE), table.describe(indices(), SHAPE)
    order = task.query.y.argsort(dim=1, stable=True)
    by_class = task.query.x.gather(1, order[..., None].expand(-1, -1, 2))
    support, query = task.support.x.unflatten(1, (3, 2)), by_class.unflatten(1, (3, 3))
    for number, classes in enumerate(described):
        for label, (name, rows) in enumerate(classes):
            pairs = [*support[number, label].tolist(), *query[number, label].tolist()]
            assert pairs == [[int(name[1:]), row] for row in rows]
            assert len(set(rows)) == 5
            assert max(rows) < COUNTS[int(name[1:])]


def test_the_place_of_a_query_does_not_tell_its_label() -> None:
    """A net that reads queries as a sequence would learn the places, and be right without looking."""
    labels = coded().draw(indices(3000), SHAPE).query.y
    for label in range(3):
        frequency = (labels == label).float().mean(0)
        assert (frequency - 1 / 3).abs().max() < 4 * (2 / 9 / 3000) ** 0.5
    pairs = torch.stack([labels[:, 0], labels[:, 1]])  # nor does the label before it, beyond what is left of each
    alike = (pairs[0] == pairs[1]).float().mean()
    assert abs(alike - 2 / 8) < 4 * (0.25 * 0.75 / 3000) ** 0.5


def test_every_example_of_a_class_is_drawn_equally_often_whatever_the_sizes_of_others() -> None:
    drawn = coded().draw(indices(6000), SHAPE)
    pairs = torch.cat([drawn.support.x, drawn.query.x], 1).flatten(0, 1)
    for number, count in enumerate(COUNTS):
        rows = pairs[pairs[:, 0] == number, 1]
        if count >= 5:  # five usable classes: 6000 * 3 / 5 draws of 5 examples each
            expected = 6000 * 3 / 5 * 5 / count
            assert torch.bincount(rows, minlength=count).float().sub(expected).abs().max() < 5 * expected**0.5


def test_equal_classes_draw_as_they_would_with_the_sizes_given() -> None:
    x = torch.arange(24).view(4, 6, 1)
    names = [*"abcd"]
    one, other = ClassTable(x, names), ClassTable(x.flatten(0, 1), names, [6, 6, 6, 6])
    assert one.describe(indices(20), SHAPE) == other.describe(indices(20), SHAPE)
    other._equal = False  # the way of unequal classes
    assert one.describe(indices(20), SHAPE) == other.describe(indices(20), SHAPE)


def test_small_classes_are_left_out_with_a_line_that_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    table = coded()
    table.check(SHAPE)
    table.check(SHAPE)
    said = capsys.readouterr().out
    assert said == "Note: 1 class has fewer than 5 examples in split 'train' and is left out: c1 (2)\n"
    assert not (table.draw(indices(), SHAPE).support.x[..., 0] == 1).any()


def test_many_small_classes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    coded([1] * 8 + [5] * 3).check(SHAPE)
    said = capsys.readouterr().out
    assert "8 classes have fewer than 5 examples" in said
    assert "c0 (1), c1 (1), c2 (1), c3 (1), c4 (1) and 3 more" in said


def test_an_error_where_too_few_classes_remain() -> None:
    expected = (
        "data.shots + data.queries is 2 + 6 = 8, but only 2 classes of split 'train' have that many examples; lower "
        "data.shots or data.queries"
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        coded().check(SHAPE._replace(queries=6))


def test_a_described_episode_is_rebuilt() -> None:
    table = coded()
    drawn = table.draw(indices(5), SHAPE)
    rebuilt = table.rebuild(table.describe(indices(5), SHAPE), SHAPE, indices(5))
    for one, other in zip((*drawn.support, *drawn.query), (*rebuilt.support, *rebuilt.query), strict=True):
        assert torch.equal(one, other)
    described = table.describe(indices(1), SHAPE)
    described[0][0] = ["c1", [0, 1, 2, 3, 4]]
    with pytest.raises(ConfigError, match=r"names content that split 'train' does not have \(example 2\)"):
        table.rebuild(described, SHAPE, indices(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32, torch.bool])
def test_any_type_is_stored_as_it_is_and_floats_become_those_of_the_net(dtype: torch.dtype) -> None:
    table = ClassTable(torch.ones(4, 6, 3, 2, dtype=dtype), [*"abcd"])
    task = table.draw(indices(2), SHAPE)
    assert (task.query.x.dtype, task.query.x.shape) == (dtype, (2, 9, 3, 2))
    ready = table.preprocess(task.query.x)
    assert ready.dtype == (torch.float32 if dtype.is_floating_point else dtype)


def test_inputs_of_several_parts_stay_together() -> None:
    ids, mask = torch.arange(24).view(4, 6, 1).expand(-1, -1, 5), torch.arange(24).view(4, 6, 1) % 2
    table = ClassTable({"ids": ids, "mask": mask}, [*"abcd"])
    task = table.draw(indices(3), SHAPE)
    assert task.support.x["ids"].shape == (3, 6, 5)
    assert torch.equal(task.support.x["ids"][..., :1] % 2, task.support.x["mask"])


def test_shared_examples_of_several_parts_are_found() -> None:
    def table(start: int) -> ClassTable:
        x = torch.arange(start, start + 4).view(2, 2, 1)
        return ClassTable({"ids": x, "mask": torch.ones_like(x)}, [f"{start}a", f"{start}b"])

    check_disjoint({"train": table(0), "val": table(4)})
    with pytest.raises(ConfigError, match="share an example: '0b' and '3a'"):
        check_disjoint({"train": table(0), "val": table(3)})


class Vectors(Source):
    """Float vectors in classes of unequal size, as somebody else would bring them."""

    def prepare(self) -> None:
        pass

    def load(self, split: str) -> ClassTable:
        generator = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
        counts = [3, 8, 5, 9, 7, 6]
        centres = torch.randn(len(counts), 4, generator=generator)
        x = torch.cat([c + 0.1 * torch.randn(n, 4, generator=generator) for c, n in zip(centres, counts, strict=True)])
        return ClassTable(x, [f"{split}{number}" for number in range(len(counts))], counts, split)

    def fingerprint(self) -> str:
        return "vectors"


def test_a_source_of_vectors_serves_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    data = EpisodicDataModule(Vectors(), ways=3, shots=2, queries=3, meta_batch_size=2)
    data.prepare_data()
    data.setup("fit")
    assert "train0 (3)" in capsys.readouterr().out
    task = data.draw("train", torch.arange(2))
    assert task.support.x.shape == (2, 6, 4)


def test_tables_share_the_rows_of_one_tensor_and_draw_what_a_copy_would() -> None:
    x = torch.arange(100.0)[:, None]
    rows = torch.tensor([7, 8, 90, 3, 50, 51, 52, 99])
    shared = ClassTable(x, [*"abc"], [3, 2, 3], rows=rows)
    own = ClassTable(x[rows], [*"abc"], [3, 2, 3])
    shape, drawn = EpisodeShape(ways=2, shots=1, queries=1), keys(0, "train", torch.arange(50))
    assert shared.x.data_ptr() == x.data_ptr()
    for number in range(3):
        assert torch.equal(shared.examples_of(number), own.examples_of(number))
    for _ in range(2):
        one, other = shared.draw(drawn, shape), own.draw(drawn, shape)
        assert torch.equal(one.support.x.cpu(), other.support.x)
        assert torch.equal(one.query.x.cpu(), other.query.x)
        shared.to(torch.device("cpu"))
    with pytest.raises(ConfigError, match="has 7 examples, but its 3 names and counts make 8"):
        ClassTable(x, [*"abc"], [3, 2, 3], rows=rows[:7])


def test_only_the_rows_of_the_table_go_to_a_device() -> None:
    table = ClassTable(torch.zeros(100, 2), [*"ab"], [2, 1], rows=torch.tensor([5, 6, 99]))
    table.to(torch.device("meta"))
    assert table.x.shape == (3, 2)
    assert table.examples_of(1).shape == (1, 2)
