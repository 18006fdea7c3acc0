"""CIFAR-FS, FC100 and mini-ImageNet: their layouts, their published splits, and each mistake in one line."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from meta_lightning.data import CIFARFS, FC100, MiniImageNet
from meta_lightning.data.sources.division import published_split
from meta_lightning.errors import ConfigError

SPLITS = ("train", "val", "test")
CLASSES, WORDS = (
    sorted(name for members in published_split(benchmark).values() for name in members)
    for benchmark in ("cifar_fs", "mini_imagenet")
)


@pytest.fixture(autouse=True)
def _own_cache(cache_folder):
    """Every test has a cache of its own."""


def pixels(label, example):
    """A picture that tells its class and number: ``[3, 32, 32]``."""
    return np.stack([np.full((32, 32), label), np.full((32, 32), example), np.arange(1024).reshape(32, 32) % 256])


def archive(root, *, train=3, test=1, change=lambda name, data: data):
    """The binary archive of CIFAR-100 with a few pictures of each class, its records in a shuffled order."""
    generator = np.random.default_rng(0)
    files = {"fine_label_names.txt": "\n".join(CLASSES).encode() + b"\n"}
    for name, first, count in (("train", 0, train), ("test", train, test)):
        records = [
            np.concatenate([[7, label], pixels(label, example).ravel()])
            for label in range(100)
            for example in range(first, first + count)
        ]
        order = generator.permutation(len(records))
        files[f"{name}.bin"] = np.array(records, np.uint8)[order].tobytes()
    root.mkdir(exist_ok=True)
    with tarfile.open(root / "cifar-100-binary.tar.gz", "w:gz") as file:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}")
            content = change(name, data)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return root


@pytest.mark.parametrize(("source", "sizes"), [(CIFARFS, (64, 16, 20)), (FC100, (60, 20, 20))])
def test_the_binary_archive_is_read_by_its_records(tmp_path, source, sizes):
    data = source(str(archive(tmp_path / "cifar")))
    data.prepare()
    assert tuple(len(data.load(split).names) for split in SPLITS) == sizes
    for split in SPLITS:
        table = data.load(split)
        assert set(table.names) == set(published_split(data.split)[split])
        for number, name in enumerate(table.names):
            found = table.examples_of(number)
            assert found.shape == (4, 3, 32, 32)
            label = CLASSES.index(name)
            expected = {pixels(label, example).astype(np.uint8).tobytes() for example in range(4)}
            assert {picture.numpy().tobytes() for picture in found} == expected


def test_pictures_are_resized(tmp_path):
    data = CIFARFS(str(archive(tmp_path / "cifar")), image_size=8)
    table = data.load("val")
    label = CLASSES.index(table.names[0])
    assert table.examples_of(0).shape == (4, 3, 8, 8)
    assert set(table.examples_of(0)[:, 0].unique().tolist()) == {label}


def test_no_superclass_of_fc100_is_in_two_splits():
    superclass_of_fish = {"aquarium_fish", "flatfish", "ray", "shark", "trout"}
    split = published_split("fc100")
    assert sum(superclass_of_fish <= set(members) for members in split.values()) == 1


@pytest.mark.parametrize("layout", ["{name}/{example}.png", "train/{name}/{example}.png", "both"])
def test_class_folders_are_read_whatever_folders_lie_above(tmp_path, layout):
    for label, name in enumerate(CLASSES):
        for example in range(2):
            place = f"{('train', 'test')[example]}/{{name}}/{{example}}.png" if layout == "both" else layout
            path = tmp_path / "cifar" / place.format(name=name, example=example)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(label, example).astype(np.uint8).transpose(1, 2, 0)).save(path)
    data = CIFARFS(str(tmp_path / "cifar"))
    assert sorted(data.load("test").names) == sorted(published_split("cifar_fs")["test"])
    assert data.load("test").counts.tolist() == [2] * 20


def test_the_real_pictures_agree_with_their_classes_folder(real_data):
    if not (real_data / "cifar_fs").is_dir():
        pytest.skip("no CIFAR-FS on this machine")
    data = CIFARFS(str(real_data / "cifar_fs"))
    table = data.load("test")
    assert (len(table.names), set(table.counts.tolist())) == (20, {200})
    assert table.examples_of(0).float().mean() == pytest.approx(120, abs=40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: data[:-1], "is broken (cannot reshape"),
        (lambda name, data: b"a\nb\n" if name.endswith("txt") else data, "is broken (index"),
    ],
)
def test_a_broken_archive_is_refused(tmp_path, change, message):
    root = archive(tmp_path / "cifar", change=change)
    with pytest.raises(ConfigError) as caught:
        CIFARFS(str(root)).prepare()
    assert f"data.source.root: {root}/cifar-100-binary.tar.gz {message}" in str(caught.value)


def test_an_archive_that_is_cut_short_or_none_is_refused(tmp_path):
    path = archive(tmp_path / "cifar") / "cifar-100-binary.tar.gz"
    for content in (path.read_bytes()[:-2000], b"nothing", b""):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"is broken .*; expected the official binary archive: fetch it again"):
            CIFARFS(str(path.parent)).prepare()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no nowhere; set it to the folder of cifar-100-binary"):
        CIFARFS("nowhere").prepare()
    root = tmp_path / "cifar"
    for name in CLASSES[1:]:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (CLASSES.index(name), 0, 0)).save(root / name / "0.png")
    with pytest.raises(ConfigError, match="lacks 1 of the 100 classes, the first 'apple'; expected all of them"):
        CIFARFS(str(root)).prepare()


def test_a_downloaded_archive_is_verified(tmp_path):
    root = archive(tmp_path / "cifar")
    with pytest.raises(ConfigError, match=r"has MD5 .*, expected 03b5dce01913d631647c71ecec9e9cb8: replace the file"):
        CIFARFS(str(root), download=True).prepare()


def write_mini(root, names=WORDS, place="{name}/{name}_{example}.jpg", side=20):
    for number, name in enumerate(names):
        for example in range(2):
            path = root / place.format(name=name, example=example)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side // 2), (2 * number, 100 * example, 9)).save(path, "png")
    return root


@pytest.mark.parametrize("place", ["{name}/{name}_{example}.jpg", "train/{name}/{name}_{example}.jpg"])
def test_mini_imagenet_in_class_folders(tmp_path, place):
    data = MiniImageNet(str(write_mini(tmp_path / "mini", place=place)), image_size=16)
    for split in SPLITS:
        assert sorted(data.load(split).names) == sorted(published_split("mini_imagenet")[split])
        assert data.load(split).examples_of(0).shape == (2, 3, 16, 16)


def tables(root, rows):
    for split, entries in rows.items():
        lines = ["filename,label", *(f"{file},{label}" for file, label in entries)]
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")


def test_mini_imagenet_with_tables_of_files(tmp_path):
    root = write_mini(tmp_path / "mini", ["a", "b", "c", "d"], place="images/{name}_{example}.jpg")
    split = {"train": "ab", "val": "c", "test": "d"}
    tables(root, {part: [(f"{name}_{n}.jpg", name) for name in names for n in (1, 0)] for part, names in split.items()})
    data = MiniImageNet(str(root), image_size=16)
    assert {part: data.load(part).names for part in SPLITS} == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    table = data.load("train")
    assert sorted(table.examples_of(table.names.index("b"))[:, 1, 0, 0].tolist()) == [0, 100]
    assert table.examples_of(table.names.index("b"))[:, 0].unique().tolist() == [2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"train": [("a_0.jpg", "a")], "val": []}, "has train.csv and lacks test.csv; expected train.csv, val.csv and"),
        ({"train": [("x.jpg", "a")], "val": [], "test": []}, "train.csv of {root} names 'x.jpg', which is not among"),
        (
            {"train": [("a_0.jpg", "a")], "val": [("a_1.jpg", "a")], "test": []},
            "class 'a' of {root} is in train.csv and in val.csv; expected each class in one split",
        ),
        ({"train": [("a_0.jpg", "")], "val": [], "test": []}, "train.csv, line 2: expected filename,label"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, rows, message):
    root = write_mini(tmp_path / "mini", ["a", "b"], place="images/{name}_{example}.jpg")
    tables(root, rows)
    with pytest.raises(ConfigError) as caught:
        MiniImageNet(str(root)).prepare()
    assert message.format(root=root) in str(caught.value)
    (root / "train.csv").write_text("file,label\n")
    (root / "val.csv").touch(), (root / "test.csv").touch()
    with pytest.raises(ConfigError, match=r"train.csv lacks the column 'filename'; expected filename,label"):
        MiniImageNet(str(root)).prepare()
