"""A user's own arrays: layouts, splits, scaling, new examples, and each mistake in one line."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_lightning.cli import main
from meta_lightning.data import Arrays, EpisodicDataModule
from meta_lightning.data.readers.arrays import ArrayReader
from meta_lightning.data.readers.base import Reader
from meta_lightning.engine.recipes import build
from meta_lightning.errors import ConfigError
from meta_lightning.types import SPLITS

CLASSES, EXAMPLES = 10, 6
Y = np.repeat(np.arange(CLASSES), EXAMPLES)


def examples(shape=(2, 9), dtype=float):
    """Examples that begin with the number of their class and their own."""
    x = np.random.default_rng(0).integers(0, 200, (len(Y), *shape)).astype(dtype)
    flat = x.reshape(len(x), -1)
    flat[:, 0], flat[:, 1] = Y, np.arange(len(Y)) % EXAMPLES
    return x


def saved(path="data.npz", **arrays):
    np.savez(path, **({"x": examples(), "y": Y} | arrays))
    return Path(path)


def refused(source):
    with pytest.raises(ConfigError) as caught:
        source.prepare()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(source):
    """The classes of each split, each with the rows of its examples, by what the examples begin with."""
    found = {}
    for split in SPLITS:
        table = source.load(split)
        for number, name in enumerate(table.names):
            pairs = table.examples_of(number).flatten(1)[:, :2]
            assert set(pairs[:, 0].tolist()) == {float(name)}
            found[split, name] = pairs[:, 1].int().tolist()
    return found


def test_classes_are_split_by_the_seed_and_keep_their_examples():
    saved()
    found = contents(Arrays("data.npz"))
    assert {name for _, name in found} == {str(number) for number in range(CLASSES)}
    assert [sum(split == part for part, _ in found) for split in SPLITS] == [6, 2, 2]
    assert all(rows == [*range(EXAMPLES)] for rows in found.values())
    assert contents(Arrays("data.npz", split_seed=1)).keys() != found.keys()


def test_npy_files_and_an_npz_file_are_the_same_data(tmp_path):
    saved()
    (tmp_path / "folder").mkdir()
    np.save("folder/x.npy", examples())
    np.save("folder/y.npy", Y)
    assert Arrays("folder").fingerprint() == Arrays("data.npz").fingerprint()
    assert Arrays("folder", split_seed=1).fingerprint() != Arrays("data.npz").fingerprint()
    assert Arrays("folder", scaling="standardise").fingerprint() != Arrays("data.npz").fingerprint()
    changed = examples()
    changed[-1, -1, -1] += 1
    np.save("folder/x.npy", changed)
    assert Arrays("folder").fingerprint() != Arrays("data.npz").fingerprint()


def test_splits_may_be_given_in_four_ways(tmp_path):
    parts = {"train": range(5), "val": (5, 6), "test": (7, 8, 9)}
    expected = {(split, str(number)): [*range(EXAMPLES)] for split, members in parts.items() for number in members}
    rows = {split: np.isin(Y, [*members]) for split, members in parts.items()}
    of_each = np.array(["train"] * 30 + ["Validation"] * 12 + ["test"] * 18)
    saved(split=of_each)
    saved("apart.npz", **{f"{a}_{s}": v[rows[s]] for s in parts for a, v in (("x", examples()), ("y", Y))})
    saved("plain.npz")
    Path("split.yaml").write_text("train: [0, 1, 2, 3, 4]\nval: [5, 6]\ntest: [7, 8, 9]\n")
    (tmp_path / "folder").mkdir()
    for split in parts:
        saved(f"folder/{split}.npz", x=examples()[rows[split]], y=Y[rows[split]])
    with zipfile.ZipFile("apart.npz", "a") as file:
        assert "x.npy" in file.namelist()  # `saved` wrote them, too
    np.savez("apart.npz", **{f"{a}_{s}": v[rows[s]] for s in parts for a, v in (("x", examples()), ("y", Y))})
    sources = [
        Arrays("data.npz"), Arrays("apart.npz"), Arrays("folder"), Arrays("plain.npz", split_file="split.yaml"),
    ]  # fmt: skip
    for source in sources:
        assert contents(source) == expected
    assert len({source.fingerprint() for source in sources}) == 1


@pytest.mark.parametrize(
    ("dtype", "scaling", "expected"),
    [
        (np.uint8, "auto", lambda x, train: x / 255),
        (np.int16, "auto", lambda x, train: x),
        (np.float16, "auto", lambda x, train: x),
        (">f4", "auto", lambda x, train: x),
        (bool, "auto", lambda x, train: x),
        (np.uint8, "standardise", lambda x, train: (x - train.mean((0, 2))[:, None]) / train.std((0, 2))[:, None]),
        (np.float64, "standardise", lambda x, train: (x - train.mean((0, 2))[:, None]) / train.std((0, 2))[:, None]),
    ],
)
def test_what_a_net_gets(dtype, scaling, expected):
    x = examples(dtype=dtype)
    saved(x=x)
    source = Arrays("data.npz", scaling=scaling)
    train = x.astype(float)[np.isin(Y, [int(name) for name in source.load("train").names])]
    data = EpisodicDataModule(source, ways=2, shots=1, queries=2)
    task = data.on_after_batch_transfer(data.draw("train", torch.arange(3)), 0)
    assert task.query.x.dtype == torch.float32
    rows = {row.tobytes() for row in expected(x.astype(float), train).astype(np.float32).reshape(len(x), -1).round(4)}
    assert all(row.numpy().round(4).tobytes() in rows for row in task.query.x.flatten(0, 1).flatten(1))


def test_integers_stay_integers_where_asked():
    saved(x=examples(dtype=np.int32))
    source = Arrays("data.npz", scaling="none")
    assert source.load("train").preprocess(source.load("train").x).dtype == torch.int64


def test_channels_come_first_and_shapes_are_made():
    x = examples((4, 3, 2))
    saved(x=x)
    assert torch.equal(Arrays("data.npz", channels_last=True).load("val").x, torch.tensor(x.transpose(0, 3, 1, 2)))
    assert Arrays("data.npz", shape=[1, 6, 4]).load("val").x.shape == (60, 1, 6, 4)
    assert "has examples of shape [4, 3, 2], which can't become [5]; correct data.source.shape" in refused(
        Arrays("data.npz", shape=[5])
    )


def test_new_examples_are_prepared_as_those_of_the_training():
    x = examples((4, 4, 2), np.uint8)
    saved(x=x, y=np.array([f"class {number}" for number in Y]))
    source = Arrays("data.npz", scaling="standardise", channels_last=True)
    reader = build(source.constants()["reader"], Reader)
    table = source.load("test")
    new = reader.read(Path("data.npz"), labelled=True)
    assert torch.equal(new.x, table.preprocess(table.x))
    assert new.class_names == [f"class {number}" for number in range(CLASSES)]
    assert new.y.tolist() == Y.tolist()
    np.save("some.npy", x[:3])
    unlabelled = reader.read(Path("some.npy"), labelled=False)
    assert torch.equal(unlabelled.x, new.x[:3])
    assert (unlabelled.y, unlabelled.ids) == (None, ["0", "1", "2"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 5)), "y": [0, 1]}, "array 'x' has examples of shape [5]; the training's had [2]"),
        ({"x": np.zeros((2, 2), np.uint8), "y": [0, 1]}, "array 'x' holds bytes, but the training's were floats, so "
         "their scales differ; convert them"),
        ({"x": np.zeros((2, 2))}, "has no array 'y'; it has x"),
        ({"y": [0, 1]}, "has no array 'x'; it has y"),
        ({"x": np.zeros((2, 2)), "y": [0, 1, 2]}, "has 3 values, but new.npz: array 'x' has 2 examples"),
    ],
)  # fmt: skip
def test_new_examples_that_do_not_fit_are_refused(arrays, message):
    np.savez("new.npz", **arrays)
    with pytest.raises(ConfigError) as caught:
        ArrayReader([2], "floats", [], []).read(Path("new.npz"), labelled=True)
    assert message in str(caught.value)


def changed(value, place=(17, 1, 3)):
    x = examples()
    x[place] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y[:-3]}, "data.npz: array 'y' has 57 values, but data.npz: array 'x' has 60 examples; expected as many: "
         "save both from the same rows"),
        ({"x": changed(np.nan)}, "data.npz: array 'x' has the value nan in example 17; expected finite numbers: fill "
         "them in, or remove such examples"),
        ({"x": changed(-np.inf, np.s_[17:19, 1, 3])}, "has the value -inf in example 17 (and in 1 more)"),
        ({"x": examples().astype(object)}, "data.npz: array 'x' holds Python objects, which are never loaded, as a "
         "pickle can run any code; save it as an array of numbers or texts (rows of unequal length: cut or pad them "
         "first)"),
        ({"y": Y.astype(object)}, "array 'y' holds Python objects"),
        ({"x": examples().astype(str)}, "data.npz: array 'x' holds <U32; expected numbers"),
        ({"x": examples().astype(complex)}, "array 'x' holds complex128; expected numbers"),
        ({"x": np.zeros((0, 4)), "y": []}, "array 'x' has shape [0, 4]; expected one example or more"),
        ({"x": np.float64(3)}, "array 'x' has shape []; expected one example or more, [examples, ...]"),
        ({"y": np.eye(CLASSES)[Y]}, "array 'y' has shape [60, 10]; expected one value for each example: for one-hot "
         "rows, save y.argmax(1)"),
        ({"y": Y + 0.5}, "array 'y' has the value 0.5 in example 0; expected classes, as integers or texts (tasks of "
         "regression: use the source Table)"),
        ({"y": np.where(Y > 8, np.nan, Y)}, "array 'y' has the value nan in example 54"),
        ({"y": np.where(Y == 3, "", Y.astype(str))}, "array 'y' has no text in example 18; fill it in, or remove the"),
        ({"y": np.zeros(60, int)}, "data.source.root data.npz: the data have 1 classes; expected at least 3"),
        ({"split": np.array(["train"] * 60)}, "gives no classes to 'val' and 'test'; expected some in train, val and"),
        ({"split": np.array(["train"] * 33 + ["val"] * 27)}, "data.npz: array 'split': '5' is in splits 'train' and "
         "'val'; expected classes with all their rows in one split"),
        ({"split": np.array(["fold1"] * 60)}, "has the split 'fold1'; expected train, val or test"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arrays, message):
    saved(**arrays)
    assert message in refused(Arrays("data.npz"))


def test_files_that_are_not_arrays_are_named():
    ran = "a pickle ran"
    code = b"cos\nsystem\n(S'touch " + ran.encode() + b"'\ntR."
    Path("code.npy").write_bytes(code)
    np.savez("code.npz", x=examples(), y=Y)
    with zipfile.ZipFile("code.npz", "w") as file:
        file.writestr("x.npy", code)
        file.writestr("y.npy", code)
    object_array = io.BytesIO()
    np.save(object_array, np.array([1, "a"], object))
    Path("broken.npz").write_bytes(saved().read_bytes()[:-200])
    Path("list.npz").write_bytes(pickle.dumps([1]))
    Path("empty").mkdir()
    saved("names.npz")
    np.savez("names.npz", images=examples(), labels=Y)
    np.savez("huge.npz", x=examples(), y=Y)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13, 9)})
    with zipfile.ZipFile("huge.npz", "w") as file:
        file.writestr("x.npy", header.getvalue())
        file.writestr("y.npy", header.getvalue())
    for root, message in {
        "none.npz": "data.source.root is none.npz; there is no such file",
        "data.csv": "data.source.root is data.csv; expected an npz file, or a folder of npy files",
        "empty": "data.source.root: empty has no npz or npy file; expected x.npy and y.npy, for example",
        "names.npz": "names.npz has images, labels; expected x and y, or x_train, y_train, x_val, y_val, x_test and",
        "broken.npz": "broken.npz can't be read (",
        "list.npz": "list.npz can't be read (",
        "code.npz": "code.npz: array 'x' ",
        "huge.npz": "huge.npz: array 'x' can't be read (",
    }.items():
        assert message in refused(Arrays(root)), root
    assert not Path(ran).exists()


def test_a_class_in_two_given_splits_is_refused():
    parts = {f"{a}_{s}": v for s in SPLITS for a, v in (("x", examples()), ("y", Y))}
    np.savez("mnist.npz", **parts)
    assert refused(Arrays("mnist.npz")) == (
        "data.source.root: class '0' of mnist.npz is in 'train' and in 'val'; expected each class in one split, since "
        "a test needs classes that are new: join the arrays into x and y, which are split by class"
    )
    parts["x_test"], parts["y_val"], parts["y_test"] = examples((3,)), Y + 10, Y + 20
    np.savez("mnist.npz", **parts)
    assert "has floats of shape [2, 9] in 'train' and floats of shape [3] in 'test'; expected the same" in refused(
        Arrays("mnist.npz")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": [0]}, "data.source.shape is [0]; expected sizes of 1 or more, for example [1, 28, 28]"),
        ({"scaling": "log"}, "data.source.scaling is 'log'; expected auto, standardise or none"),
        ({"split_seed": -1}, "data.source.split_seed is -1; expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        Arrays("data.npz", **settings)
    assert str(caught.value) == message


def test_equal_examples_of_few_numbers_may_be_chance_and_copies_of_many_are_refused(capsys):
    x = examples((3,))
    x[:, 2] = 0
    x[54:] = x[:6]
    saved(x=x)
    EpisodicDataModule(Arrays("data.npz"), ways=2, shots=1, queries=1).setup("fit")
    assert "Note: 6 of the 12 examples of split 'val' equal one of split 'train'; that may be chance" in (
        capsys.readouterr().out
    )
    x = examples()
    x[54:] = x[:6]
    saved(x=x)
    with pytest.raises(ConfigError, match=r"splits 'train' and 'val' share an example: '0' and '9'"):
        EpisodicDataModule(Arrays("data.npz"), ways=2, shots=1, queries=1).setup("fit")


def test_the_command_line_trains_on_arrays_of_unequal_classes(capsys):
    keep = np.r_[0:2, 6 : len(Y)]  # four examples of class 0 are missing
    saved(x=examples((20,))[keep], y=Y[keep])
    Path("own.yaml").write_text("""
model: {class_path: ProtoNetModule, init_args: {net: {class_path: MLP, init_args: {hidden: [8]}}}}
data:
  source: {class_path: Arrays, init_args: {root: data.npz, scaling: standardise}}
  ways: 2
  shots: 2
  queries: 2
  val_tasks: 4
trainer: {max_steps: 1, val_check_interval: 1, num_sanity_val_steps: 0, accelerator: cpu}
""")
    assert main(["fit", "--config=own.yaml"]) == 0
    assert "Note: 1 class has fewer than 4 examples in split 'train' and is left out: 0 (2)" in capsys.readouterr().out
    Path("data.npz").write_bytes(b"PK")
    assert main(["fit", "--config=own.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: data.npz can't be read (")
