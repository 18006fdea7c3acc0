"""A user's own rows: over classes and over tasks, prepared by the training rows, and each mistake in one line."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from meta_lightning.cli import main
from meta_lightning.data import EpisodicDataModule, Table
from meta_lightning.data.episodes import keys
from meta_lightning.data.manifest import Manifest
from meta_lightning.data.readers.base import Reader
from meta_lightning.engine.recipes import build
from meta_lightning.errors import ConfigError
from meta_lightning.types import SPLITS, EpisodeShape

from ..own_data import write_csv

KEYS = keys(0, "train", torch.arange(200))
REGRESSION, BINARY = EpisodeShape(None, 2, 3), EpisodeShape(2, 1, 3)


def refused(**settings):
    with pytest.raises(ConfigError) as caught:
        Table(**{"root": "t.csv"} | settings).prepare()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def class_columns(classes=10, rows=6):
    label = np.repeat([f"c{number}" for number in range(classes)], rows)
    own = np.arange(classes * rows)
    return {"size": own * 1.5 + 7, "colour": np.where(own % 3, "red", "blue"), "label": label}


def task_columns(tasks=10, rows=8):
    """``y`` tells the task and the row."""
    own = np.arange(tasks * rows)
    names = np.repeat([f"t{number}" for number in range(tasks)], rows)
    return {"task": names, "x": np.sin(own), "y": own * 1.0, "ill": np.where(own % 2, "yes", "no")}


def write_tasks(**changes):
    return write_csv("t.csv", **(task_columns() | changes))


# Rows with a class column


def test_rows_of_classes_are_standardised_by_the_training_and_one_hot():
    columns = class_columns()
    write_csv("t.csv", **columns)
    source = Table("t.csv", label="label")
    train = source.load("train")
    assert [len(source.load(split).names) for split in SPLITS] == [6, 2, 2]
    numbers = columns["size"][np.isin(columns["label"], train.names)]
    for split in SPLITS:
        table = source.load(split)
        for number, name in enumerate(table.names):
            rows = columns["label"] == name
            x = table.examples_of(number)
            scaled = (columns["size"][rows] - numbers.mean()) / numbers.std()
            assert torch.allclose(x[:, 0], torch.tensor(scaled, dtype=torch.float32), atol=1e-6)
            blue = torch.tensor(columns["colour"][rows] == "blue").float()
            assert torch.equal(x[:, 1:], torch.stack([blue, 1 - blue], 1))


def test_new_rows_are_prepared_as_those_of_the_training():
    write_csv("t.csv", **class_columns())
    source = Table("t.csv", label="label", categorical=["size"])
    reader = build(source.constants()["reader"], Reader)
    new = reader.read(Path("t.csv"), labelled=True)
    table = source.load("val")
    assert torch.equal(new.x, table.x)
    assert new.class_names == [f"c{number}" for number in range(10)]


def test_the_split_may_be_a_column_and_a_seed():
    columns = class_columns()
    of_class = {f"c{number}": "train" if number < 6 else "valid" if number < 8 else "test" for number in range(10)}
    write_csv("t.csv", **columns, fold=[of_class[name] for name in columns["label"]])
    source = Table("t.csv", label="label", split="fold")
    assert [source.load(split).names for split in SPLITS] == [
        ["c0", "c1", "c2", "c3", "c4", "c5"], ["c6", "c7"], ["c8", "c9"],
    ]  # fmt: skip
    assert source.load("train").x.shape[1] == 3  # neither the label nor the split is an input
    drawn = [Table("t.csv", label="label", features=["size"], split=seed) for seed in (0, 1)]
    assert drawn[0].load("train").names != drawn[1].load("train").names
    assert len({table.fingerprint() for table in (source, *drawn)}) == 3


def test_csv_and_parquet_of_the_same_rows_are_the_same_data():
    columns = class_columns()
    write_csv("t.csv", **columns)
    parquet.write_table(pa.table(columns), "t.parquet")
    one, other = Table("t.csv", label="label"), Table("t.parquet", label="label")
    assert one.fingerprint() == other.fingerprint()
    assert one.constants() == other.constants()
    columns["size"] = columns["size"] + (np.arange(60) == 3)
    write_csv("t.csv", **columns)
    assert Table("t.csv", label="label").fingerprint() != one.fingerprint()


def test_equal_rows_of_two_splits_are_noted_not_refused(capsys):
    columns = class_columns()
    columns["size"] = np.tile(np.arange(6), 10)
    write_csv("t.csv", **columns)
    EpisodicDataModule(Table("t.csv", label="label"), ways=2, shots=1, queries=1).setup("fit")
    assert "Note: 12 of the 12 examples of split 'val' equal one of split 'train'; that may be chance" in (
        capsys.readouterr().out
    )


# Rows with a task column


def test_support_and_queries_are_disjoint_rows_of_one_task():
    write_tasks()
    source = Table("t.csv", task="task", target="y", features=["x"])
    reader = build(source.constants()["reader"], Reader)
    for split in SPLITS:
        table = source.load(split)
        table.check(REGRESSION)
        task = table.draw(KEYS, REGRESSION)
        # The target of a row tells its number.
        rows = reader.denormalise(torch.cat([task.support.y, task.query.y], 1))[..., 0].round().long()
        for number, episode in enumerate(rows.tolist()):
            (owner,) = {f"t{row // 8}" for row in episode}
            assert owner in table.names
            assert len({*episode}) == 5
            assert table.describe(KEYS[number : number + 1], REGRESSION) == [
                [owner, ["", [row % 8 for row in episode]]]
            ]
        assert {row // 8 for row in rows.flatten().tolist()} == {int(name[1:]) for name in table.names}
        assert len({*rows.flatten().tolist()}) == 8 * len(table.names)  # every row is drawn


def test_a_regression_is_standardised_and_predicted_in_the_unit_of_its_column():
    write_tasks()
    source = Table("t.csv", task="task", target="y", features=["x"])
    train = np.concatenate([np.arange(80)[task_columns()["task"] == name] for name in source.load("train").names])
    reader = build(source.constants()["reader"], Reader)
    assert reader.denormalise(torch.tensor([[0.0], [1.0]])).flatten().tolist() == pytest.approx(
        [train.mean(), train.mean() + train.std()]
    )


def test_rows_of_a_classification_are_drawn_by_class_and_a_class_has_one_label_in_all_tasks():
    write_tasks()
    source = Table("t.csv", task="task", target="ill", features=["y"])
    scale = build(source.constants()["reader"], Reader).columns.scales[0]
    table = source.load("train")
    task = table.draw(KEYS, BINARY)
    for part, count in ((task.support, 1), (task.query, 3)):
        row = (part.x[..., 0] * scale.deviation + scale.mean).round().long()
        assert torch.equal(part.y, row % 2)  # "no" is 0 and "yes" is 1
        assert (part.y.sum(1) == count).all()
    assert len({*task.query.y[:, 0].tolist()}) == 2  # a query's position does not tell its label
    rows = (torch.cat([task.support.x, task.query.x], 1)[..., 0] * scale.deviation + scale.mean).round().long()
    assert all(len({*episode}) == 8 for episode in rows.tolist())


def test_a_target_of_numbers_may_be_classes():
    write_tasks(ill=np.arange(80) % 2)
    table = Table("t.csv", task="task", target="ill", categorical=["ill"]).load("train")
    table.check(BINARY)
    assert table.draw(KEYS, BINARY).query.y.dtype == torch.int64
    with pytest.raises(ConfigError) as caught:
        Table("t.csv", task="task", target="ill").load("train").check(BINARY)
    assert str(caught.value) == (
        "data.ways is 2, but column 'ill' holds numbers, which tasks predict; leave data.ways out, or list the column "
        "under data.source.categorical if it holds classes"
    )


def in_split(columns, split="train"):
    """Puts all tasks but the last two into a split."""
    return ["val" if name == "t8" else "test" if name == "t9" else split for name in columns["task"]]


def test_small_tasks_are_left_out_by_name(capsys):
    columns = task_columns()
    keep = ~np.isin(np.arange(80), [1, 2, 3, 4, 17, 18, 19, 20])  # t0 and t2 have four rows
    write_csv(
        "t.csv", **{name: values[keep] for name, values in columns.items()}, fold=np.array(in_split(columns))[keep]
    )
    table = Table("t.csv", task="task", target="y", split="fold").load("train")
    table.check(REGRESSION)
    table.check(REGRESSION)
    assert capsys.readouterr().out == (
        "Note: 2 tasks have fewer than 5 rows in split 'train' and are left out: t0 (4), t2 (4)\n"
    )
    assert {episode[0] for episode in table.describe(KEYS, REGRESSION)} == {"t1", "t3", "t4", "t5", "t6", "t7"}
    with pytest.raises(ConfigError) as caught:
        table.check(EpisodeShape(None, 5, 5))
    assert str(caught.value) == (
        "data.shots + data.queries is 5 + 5 = 10, but a task of split 'train' has at most 8 rows; lower data.shots or "
        "data.queries"
    )


def test_tasks_with_other_classes_than_the_rest_are_left_out_by_name(capsys):
    columns = task_columns(rows=20)
    own = np.arange(200)
    ill = np.where(own < 20, "no", columns["ill"])  # t0
    ill = np.where((own >= 20) & (own < 26), "dead", ill)  # t1
    ill = np.where((own >= 40) & (own < 57), "yes", ill)  # t2 has one "no"
    write_csv("t.csv", **columns | {"ill": ill}, fold=in_split(columns))
    table = Table("t.csv", task="task", target="ill", split="fold").load("train")
    table.check(BINARY)
    assert capsys.readouterr().out == (
        "Note: 1 task has fewer than 4 rows of each of 2 classes in split 'train' and is left out: t2 (1)\n"
        "Note: 2 tasks have other classes than no, yes in split 'train' and are left out: t0 (no), t1 (dead, no, yes)\n"
    )
    assert {episode[0] for episode in table.describe(KEYS, BINARY)} == {"t3", "t4", "t5", "t6", "t7"}
    for ways, message in {
        None: "data.ways is not set; expected the number of classes of a task; column 'ill' has 2: no, yes",
        3: "data.ways is 3, but column 'ill' has 2: no, yes; lower data.ways",
    }.items():
        with pytest.raises(ConfigError) as caught:
            table.check(BINARY._replace(ways=ways))
        assert str(caught.value) == message


def test_tasks_with_classes_of_their_own_draw_some_of_them(capsys):
    own = np.arange(10 * 30)
    kind = np.array([f"t{row // 30} kind {row % (2 + row // 30 % 3)}" for row in own])  # 2, 3 or 4 classes
    write_csv("t.csv", **task_columns(rows=30) | {"ill": kind})
    table = Table("t.csv", task="task", target="ill", features=["y"]).load("train")
    shape = EpisodeShape(3, 2, 3)
    table.check(shape)
    assert "have fewer than 3 classes in split 'train' and are left out: t" in capsys.readouterr().out
    for episode in table.describe(KEYS, shape):
        names = [name for name, _ in episode[1:]]
        assert names == sorted({*names})
        assert all(name.startswith(f"{episode[0]} kind") for name in names)


@pytest.mark.parametrize(("target", "shape"), [("y", REGRESSION), ("ill", BINARY)])
def test_episodes_of_tasks_are_rebuilt_and_checked(target, shape):
    write_tasks()
    table = Table("t.csv", task="task", target=target).load("train")
    described = table.describe(KEYS, shape)
    drawn, rebuilt = table.draw(KEYS, shape), table.rebuild(described, shape, KEYS)
    for one, other in zip([*drawn.support, *drawn.query], [*rebuilt.support, *rebuilt.query], strict=True):
        assert torch.equal(one, other)
    assert all(table.problem(episode, shape) is None for episode in described)
    name, (cls, rows), *others = described[0]
    for wrong in ([name, [cls, [*rows[:-1], 999]], *others], ["nobody", [cls, rows], *others], [name, ["?", rows]], 3):
        with pytest.raises(ConfigError, match=r"data\.episodes names content that split 'train' does not have"):
            table.problem(wrong, shape)
    assert "distinct ones of each class" in table.problem([name, [cls, [*rows[:-1], rows[0]]], *others], shape)
    assert "classes; expected" in table.problem([name, [cls, rows], *others, [cls, rows]], shape)


def test_a_manifest_of_tasks_replays():
    write_tasks()
    data = EpisodicDataModule(Table("t.csv", task="task", target="y"), shots=2, queries=3, test_tasks=5)
    data.setup("test")
    written: Manifest = data.manifest("test")
    assert len(written.episodes) == 5
    assert written.source.startswith("table ")


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data.source.label and data.source.task: neither is set; expected label (a column of classes) or task (a "
         "column of tasks)"),
        ({"label": "x", "task": "task"}, "data.source.label and data.source.task: both are set"),
        ({"task": "task"}, "data.source.target is not set; expected the column to predict with task, and none with"),
        ({"label": "x", "target": "y"}, "data.source.target is 'y', but there is no data.source.task"),
        ({"label": "ill", "split": -1}, "data.source.split is -1; expected a seed of 0 or more, or the name of a"),
        ({"task": "task", "target": "z"}, "no column 'z'; it has task, x, y, ill: correct data.source.target"),
        ({"label": "kind"}, "t.csv has no column 'kind'; it has task, x, y, ill: correct data.source.label"),
        ({"task": "task", "target": "y", "features": ["x", "w"]}, "no column 'w'; it has task, x, y, ill: correct "
         "data.source.features"),
        ({"task": "task", "target": "y", "categorical": ["w"]}, "no column 'w'; it has task, x, y, ill: correct "
         "data.source.categorical"),
        ({"task": "task", "target": "y", "split": "fold"}, "no column 'fold'; it has task, x, y, ill: correct "
         "data.source.split"),
        ({"task": "task", "target": "task"}, "data.source.task and data.source.target are both 'task'; expected two"),
        ({"task": "task", "target": "y", "features": ["x", "y"]}, "data.source.features lists 'y', which is "
         "data.source.target; leave it out"),
        ({"label": "ill", "categorical": ["ill"]}, "data.source.categorical lists 'ill', which is data.source.label"),
        ({"label": "ill"}, "t.csv: column 'ill': the data have 2 classes; expected at least 3, to train, validate and"),
        ({"task": "task", "target": "y", "root": "no.csv"}, "data.source.root is no.csv, which can't be read (No such "
         "file or directory); expected a CSV or Parquet file"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_are_refused(settings, message):
    write_tasks()
    assert message in refused(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": ["high" if row == 9 else row for row in range(80)]}, "t.csv: row 11, column 'x' is 'high', but most of "
         "the column are numbers; expected a number: correct it, or list the column under data.source.categorical"),
        ({"y": ["high" if row == 9 else row for row in range(80)]}, "t.csv: row 11, column 'y' is 'high', but most"),
        ({"x": ["" if row in (3, 5) else row for row in range(80)]}, "t.csv: row 5, column 'x' has no value; fill it "
         "in, remove the row, or leave out the column (and 1 more rows)"),
        ({"y": ["nan" if row == 4 else row for row in range(80)]}, "t.csv: row 6, column 'y' has no value ('nan')"),
        ({"x": ["inf" if row == 4 else row for row in range(80)]}, "t.csv: row 6, column 'x' is inf; expected a"),
        ({"task": ["" if row == 4 else f"t{row % 9}" for row in range(80)]}, "row 6, column 'task' has no value"),
        ({"x": [f"at {row}, noon" for row in range(80)]}, "t.csv: row 2 has 5 values, but there are 4 columns"),
        ({"x": [f"name {row * row}" for row in range(80)]}, None),
        ({" x": range(80)}, "t.csv has two columns of the name 'x'; rename one of them"),
        ({"split": ["train"] * 80}, "t.csv has a column 'split', but data.source.split is 0; set data.source.split to"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line(change, message):
    write_tasks(**change)
    if message is None:  # few enough texts are categories
        Table("t.csv", task="task", target="y").prepare()
    else:
        assert message in refused(task="task", target="y")


def test_a_table_without_inputs_is_refused():
    write_csv("t.csv", label=np.arange(9) // 3)
    assert refused(label="label") == "t.csv has no column for the inputs; it has label"


def test_a_task_in_two_splits_is_refused():
    write_tasks(fold=["train"] * 44 + ["val"] * 16 + ["test"] * 20)
    assert refused(task="task", target="y", split="fold") == (
        "t.csv: column 'fold': 't5' is in splits 'train' and 'val'; expected tasks with all their rows in one split"
    )


# The command line

OWN = """
model: {{class_path: {model}, init_args: {{net: {{class_path: MLP, init_args: {{hidden: [8]}}}}}}}}
data: {{source: {source}, shots: 2, queries: 2, val_tasks: 2, test_tasks: 2, meta_batch_size: 2, {more}}}
report: {{baselines: false}}
trainer: {{max_steps: 1, val_check_interval: 1, num_sanity_val_steps: 0, accelerator: cpu, logger: {logger}}}
"""
LOGGER = "{class_path: TensorBoardLogger, init_args: {save_dir: logs, name: own/own}}"


@pytest.mark.parametrize(
    ("model", "source", "more", "widths"),
    [
        ("MAMLModule", "{class_path: Table, init_args: {root: t.csv, task: task, target: y}}", "", (3, 1)),
        ("MAMLModule", "{class_path: Table, init_args: {root: t.csv, task: task, target: ill}}", "ways: 2", (2, 2)),
        ("ProtoNetModule", "{class_path: Table, init_args: {root: t.csv, label: task}}", "ways: 2", (4, 8)),
    ],
)
def test_the_width_of_a_net_follows_from_the_table(model, source, more, widths, capsys):
    write_tasks()
    Path("own.yaml").write_text(OWN.format(model=model, source=source, more=more, logger=LOGGER))
    assert main(["fit", "--config=own.yaml"]) == 0
    weights = torch.load("logs/own/own/version_0/checkpoints/best.ckpt")["state_dict"]
    shapes = [value.shape for value in weights.values() if value.ndim == 2]
    assert (shapes[0][1], shapes[-1][0]) == widths
    capsys.readouterr()
    assert main(["test", "--config=own.yaml", "--ckpt_path=best"]) == 0
    assert "differ" not in capsys.readouterr().out
    assert main(["fit", "--config=own.yaml", "--model.net.in_features=9"]) == 2
    assert f", {widths[0]}]: mat1 and mat2 shapes cannot be multiplied (" in capsys.readouterr().err


def test_the_command_line_refuses_a_table_in_one_line(capsys):
    write_tasks(x=["high" if row == 9 else row for row in range(80)])
    source = "{class_path: Table, init_args: {root: t.csv, task: task, target: y}}"
    Path("own.yaml").write_text(OWN.format(model="MAMLModule", source=source, more="", logger="false"))
    assert main(["fit", "--config=own.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: t.csv: row 11, column 'x' is 'high'")
    assert not Path("logs").exists()


def test_a_hundred_thousand_rows_are_read_in_seconds():
    rng = np.random.default_rng(0)
    count = 100_000
    columns = {f"n{number}": rng.normal(size=count).round(4) for number in range(10)}
    write_csv("t.csv", label=np.arange(count) % 500, colour=np.arange(count) % 7, **columns)
    start = time.process_time()
    Table("t.csv", label="label", categorical=["colour"]).prepare()
    assert time.process_time() - start < 20  # about two seconds on an idle machine
