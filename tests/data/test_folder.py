"""A user's own pictures: the layouts of folders and zips, the splits, and each mistake in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from meta_lightning.cli import main
from meta_lightning.data import EpisodicDataModule, Folder
from meta_lightning.data.readers import decoding
from meta_lightning.data.readers.decoding import decode_all
from meta_lightning.data.readers.picture_files import PictureFiles
from meta_lightning.data.readers.pictures import PictureReader
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape

SPLITS = ("train", "val", "test")
SIZE = 4


@pytest.fixture(autouse=True)
def _own_cache(cache_folder):
    """Every test has a cache of its own."""


def picture(shade):
    """A picture of one colour, which tells its number."""
    return Image.new("RGB", (SIZE, SIZE), (shade % 256, shade // 256, 7))


def fill(root, paths, first=0):
    """Writes a picture of its own colour to each path."""
    for number, path in enumerate(paths, first):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / path)
    return root


def split_paths(classes=3, pictures=4):
    return [
        f"{split}/{split}{number}/{example}.png"
        for split in SPLITS
        for number in range(classes)
        for example in range(pictures)
    ]


def class_paths(classes=10, pictures=4):
    return [f"class {number}/{example}.png" for number in range(classes) for example in range(pictures)]


def zipped(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, prefix + str(path.relative_to(folder)))
    return archive


def folder(root, **settings):
    return Folder(str(root), **{"image_size": SIZE, **settings})


def shades(table, name):
    """The numbers of the pictures of a class."""
    red, green = table.examples_of(table.names.index(name))[:, :2, 0, 0].long().unbind(1)
    return (red + 256 * green).tolist()


def names(source):
    return {split: source.load(split).names for split in SPLITS}


def all_names(source):
    return sorted(name for members in names(source).values() for name in members)


def refused(source):
    """The message of a refusal: one line, without any trace of it in the cache."""
    with pytest.raises(ConfigError) as caught:
        source.prepare()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", [None, "", "my pictures/", "a/b/"])
def test_folders_of_splits(tmp_path, prefix):
    root = fill(tmp_path / "data", split_paths())
    if prefix is not None:
        root = zipped(root, tmp_path / "data.zip", prefix)
    source = folder(root)
    source.prepare()
    assert names(source) == {split: [f"{split}{number}" for number in range(3)] for split in SPLITS}
    for number, split in enumerate(SPLITS):
        table = source.load(split)
        assert table.counts.tolist() == [4, 4, 4]
        assert shades(table, f"{split}1") == [number * 12 + 4 + example for example in range(4)]


def test_a_zip_and_the_folder_that_it_was_made_of_are_the_same_data(tmp_path):
    root = fill(tmp_path / "data", split_paths())
    assert folder(root).fingerprint() == folder(zipped(root, tmp_path / "d.zip")).fingerprint()


def test_the_layout_of_cifar_100_with_a_class_named_train(tmp_path):
    root = fill(tmp_path / "data", ["train/1.png", "bus/1.png", "car/1.png"])
    assert all_names(folder(root)) == ["bus", "car", "train"]


def test_classes_are_split_by_the_seed_alone(tmp_path):
    root = fill(tmp_path / "data", class_paths())
    split = names(folder(root))
    assert [len(split[part]) for part in SPLITS] == [6, 2, 2]
    assert all_names(folder(root)) == sorted(f"class {number}" for number in range(10))
    torch.manual_seed(5)
    assert names(folder(root)) == split
    assert names(folder(root, split_seed=1)) != split


def test_another_split_needs_no_decoding(tmp_path, cache_folder, monkeypatch):
    root = fill(tmp_path / "data", class_paths())
    folder(root).prepare()
    monkeypatch.setattr(PictureReader, "decode_bytes", None)
    source = folder(root, split_seed=1)
    for split in SPLITS:
        table = source.load(split)
        for name in table.names:
            number = int(name.split()[1])
            assert shades(table, name) == [number * 4 + example for example in range(4)]
    assert len([*cache_folder.iterdir()]) == 1


@pytest.mark.parametrize(
    "write", [json.dumps, lambda split: "".join(f"{k}: [{', '.join(v)}]\n" for k, v in split.items())]
)
def test_classes_are_split_by_a_file(tmp_path, write, capsys):
    root = fill(tmp_path / "data", [f"{name}/1.png" for name in ("no", "1", "über", "x y", "left")])
    (tmp_path / "split.yaml").write_text(write({"train": ["no", "1"], "val": ["über"], "test": ["x y"]}))
    source = folder(root, split_file=str(tmp_path / "split.yaml"))
    assert names(source) == {"train": ["no", "1"], "val": ["über"], "test": ["x y"]}
    assert "Note: 1 classes of" in (said := capsys.readouterr().out)
    assert said.endswith("are in no split of " + str(tmp_path / "split.yaml") + " and are left out: left\n")


@pytest.mark.parametrize(("text", "message"), [
    ("[a", "can't be read (while parsing"),
    ("train: a", "is not a mapping of lists; expected the lists train, val and test of class names"),
    ("[a, b]", "is not a mapping of lists"),
    ("", "is not a mapping of lists"),
    ("train: [[a]]", "is not a mapping of lists"),
    ("training: [a]", "has the key 'training'; expected the lists train, val and test"),
    ("train: [class 0]\nval: [class 1, class 0]", "has class 'class 0' in train and in val; expected each class once"),
    ("train: [class 0]\nval: [klass 1]", "has class 'klass 1' in val, but "),
])  # fmt: skip
def test_a_split_file_that_does_not_fit_is_refused(tmp_path, text, message):
    root = fill(tmp_path / "data", class_paths(3, 1))
    (tmp_path / "split.yaml").write_text(text)
    said = refused(folder(root, split_file=str(tmp_path / "split.yaml")))
    assert said.startswith("data.source.split_file: ")
    assert message in said


def test_a_split_file_beside_folders_of_splits_is_refused(tmp_path):
    root = fill(tmp_path / "data", split_paths())
    said = refused(folder(root, split_file="split.yaml"))
    assert "is split already into test, train, val; leave split_file out" in said
    assert "can't be read" in refused(folder(fill(tmp_path / "x", class_paths()), split_file="none.yaml"))


def test_too_few_classes_are_refused(tmp_path):
    said = refused(folder(fill(tmp_path / "data", class_paths(2))))
    assert "2 classes; expected at least 3" in said
    assert str(tmp_path / "data") in said


def test_an_absent_split_is_refused_when_it_is_needed(tmp_path):
    source = folder(fill(tmp_path / "data", [path for path in split_paths() if not path.startswith("val")]))
    source.load("train")
    with pytest.raises(
        ConfigError, match=r"split 'val' of .*data has no classes; expected some in train, val and test"
    ):
        source.load("val")


def test_classes_of_any_size_are_drawn_from_and_small_ones_named(tmp_path, capsys):
    paths = [
        f"train/{name}/{example}.png" for name, count in zip("abc", (2, 5, 9), strict=True) for example in range(count)
    ]
    table = folder(fill(tmp_path / "data", paths)).load("train")
    table.check(EpisodeShape(ways=2, shots=1, queries=3))
    assert "1 class has fewer than 4 examples in split 'train' and is left out: a (2)" in capsys.readouterr().out


def test_pictures_of_every_kind_lie_side_by_side(tmp_path):
    root = tmp_path / "data"
    fill(root, ["train/a/1.png", "train/a/2.BMP", "train/a/3.Jpg", "train/b/4.webp", "train/b/5.TIF", "train/b/6.jpeg"])
    Image.new("L", (300, 7), 9).save(root / "train" / "a" / "grey.png")
    Image.new("RGBA", (1, 80)).save(root / "train" / "a" / "wide.png")
    Image.fromarray(np.full((9, 9), 4096, np.uint16)).save(root / "train" / "a" / "deep.png")
    table = folder(root, resize="pad").load("train")
    assert table.counts.tolist() == [6, 3]
    assert table.x.shape == (9, 3, SIZE, SIZE)


def test_litter_is_left_out_and_other_files_are_named(tmp_path, capsys):
    root = fill(tmp_path / "data", split_paths())
    for path in (".DS_Store", "train/.DS_Store", "train/train0/Thumbs.db", "__MACOSX/train/train0/._1.png",
                 "train/train0/.hidden.png", ".git/a/b.png", "desktop.ini"):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"litter")
    (root / "empty class").mkdir()
    source = folder(zipped(root, tmp_path / "data.zip"))
    source.prepare()
    assert capsys.readouterr().out == ""
    (root / "read me.txt").write_text("")
    (root / "train" / "train0" / "a.gif").write_text("")
    listed = folder(root)
    listed.prepare()
    assert capsys.readouterr().out == (
        f"Note: 2 files in {root} are no pictures and are left out, the first read me.txt\n"
    )
    assert listed.fingerprint() == source.fingerprint()


@pytest.mark.parametrize(("paths", "message"), [
    (["1.png", "a/1.png"], "1.png lies in no class folder; expected train, val and test with a folder of pictures for"),
    (["train/1.png", "train/a/1.png"], "train/1.png lies in no class folder"),
    (["a/x/1.png", "b/1.png"], "a/x/1.png lies in a folder of a class folder; expected"),
    (["train/a/x/1.png", "train/b/1.png"], "train/a/x/1.png lies in a folder of a class folder"),
    (["train/a/1.png", "valid/b/1.png"], "valid/b/1.png does not lie in train, val, test although others do"),
    (["train/a/1.png", "val/a/2.png"], "class 'a' of {root} lies in train and in val; expected each class in one"),
])  # fmt: skip
def test_pictures_in_the_wrong_place_are_named(tmp_path, paths, message):
    root = fill(tmp_path / "data", paths)
    said = refused(folder(root))
    assert message.format(root=root) in said
    assert said.startswith("data.source.root: ")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: (path / "a").mkdir(parents=True)])
def test_a_folder_without_pictures_is_refused(tmp_path, make):
    make(tmp_path / "data")
    assert "holds no pictures (.png, .jpg, " in refused(folder(tmp_path / "data"))


def test_a_missing_root_is_refused(tmp_path):
    said = refused(folder(tmp_path / "not here"))
    assert said.startswith(f"data.source.root: there is no {tmp_path / 'not here'}; expected a folder or a zip with ")


def test_something_else_than_a_zip_is_refused(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"<html>" * 100)
    assert "data.zip is broken (" in refused(folder(tmp_path / "data.zip"))


@pytest.mark.parametrize("name", ["/out.png", "../out.png", "a/../../out.png", "C:/out.png", "a\\..\\..\\out.png"])
def test_names_that_lead_out_of_a_zip_are_refused(tmp_path, name):
    archive = zipped(fill(tmp_path / "data", class_paths()), tmp_path / "data.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, b"")
    assert f"data.zip: {name} is not a path inside the archive" in refused(folder(archive))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("in_zip", [False, True])
def test_a_corrupt_picture_is_named(tmp_path, cache_folder, monkeypatch, in_zip, parallel):
    monkeypatch.setattr(decoding, "_MIN_PARALLEL", 0 if parallel else 1000)
    root = fill(tmp_path / "data", class_paths())
    whole = (root / "class 3" / "2.png").read_bytes()
    (root / "class 3" / "2.png").write_bytes(whole[:50])
    (root / "class 7" / "1.png").write_bytes(b"")
    place = f"{root}/class 3/2.png"
    if in_zip:
        root = zipped(root, tmp_path / "data.zip")
        place = f"{root}: class 3/2.png"
    said = refused(folder(root))
    assert said.startswith(f"{place} does not decode (")
    assert said.endswith("; replace or remove it")
    assert not [*cache_folder.iterdir()]


def test_a_zip_entry_that_declares_too_much_is_refused_unread(tmp_path):
    archive = zipped(fill(tmp_path / "data", class_paths(3, 1)), tmp_path / "data.zip")
    whole = bytearray(archive.read_bytes())
    directory = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)
    while whole[directory + 46 : directory + 53] != b"class 0" or whole[directory + 54 : directory + 55] != b"0":
        directory = whole.index(b"PK\x01\x02", directory + 1)
    whole[directory + 24 : directory + 28] = (2**31 - 1).to_bytes(4, "little")
    archive.write_bytes(whole)
    assert "class 0/0.png declares 2147483647 bytes; expected a picture of at most 268435456" in refused(
        folder(archive)
    )


def test_a_copy_in_a_later_split_is_left_out_of_the_training(tmp_path, capsys):
    root = fill(tmp_path / "data", split_paths(pictures=5))
    shutil.copy(root / "train/train1/2.png", root / "test/test0/9.png")
    picture(7).save(root / "val/val2/8.bmp")  # the same pixels in other bytes: train1/2.png
    source = folder(root)
    assert source.load("train").counts.tolist() == [5, 4, 5]
    assert source.load("val").counts.tolist() == [5, 5, 5]
    assert source.load("test").counts.tolist() == [6, 5, 5]
    assert shades(source.load("train"), "train1") == [5, 6, 8, 9]
    EpisodicDataModule(source, ways=2, queries=2).setup("fit")  # compares the splits again, on its own
    said = capsys.readouterr().out
    assert f"Note: a picture of {root} is left out of 'train', as another split has it, too: train/train1/2.png" in said
    assert f"Note: a picture of {root} is left out of 'val'" in said


def test_a_class_under_two_names_is_refused(tmp_path):
    root = fill(tmp_path / "data", split_paths())
    shutil.copytree(root / "train/train1", root / "test/another name")
    with pytest.raises(ConfigError, match=(
        r"4 of the 4 pictures of class 'train1' of .*data are in two splits, the first train/train1/0\.png as "
        r"test/another name/0\.png; expected classes that share no picture with another split"
    )):  # fmt: skip
        folder(root).load("train")


def test_changed_files_are_decoded_again_and_the_old_cache_is_removed(tmp_path, cache_folder):
    root = fill(tmp_path / "data", class_paths())
    before = folder(root)
    before.prepare()
    first = [path.name for path in cache_folder.iterdir()]
    picture(999).save(root / "class 0" / "0.png")
    os.utime(root / "class 0" / "0.png", ns=(0, 123))
    after = folder(root)
    assert 999 in [
        shade for split in SPLITS for name in after.load(split).names for shade in shades(after.load(split), name)
    ]
    assert after.fingerprint() != before.fingerprint()
    left = [path.name for path in cache_folder.iterdir()]
    assert len(left) == len(first) == 1
    assert left != first
    assert shades(before.load("train"), before.load("train").names[0])  # the removed file is still mapped


def test_the_fingerprint_tells_data_and_settings_apart(tmp_path):
    root = fill(tmp_path / "data", class_paths())
    settings = [{}, {"image_size": 5}, {"channels": 1}, {"resize": "pad"}, {"split_seed": 1}]
    assert len({folder(root, **some).fingerprint() for some in settings}) == 5
    moved = shutil.copytree(root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert folder(moved).fingerprint() == folder(root).fingerprint()
    fill(root, ["class 0/new.png"], 500)
    assert folder(moved).fingerprint() != folder(root).fingerprint()


def test_constants_prepare_new_pictures_as_those_of_the_training(tmp_path):
    root = tmp_path / "data"
    for number in range(9):
        noise = np.random.default_rng(number).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        (root / f"{number}").mkdir(parents=True)
        Image.fromarray(noise).save(root / f"{number}" / "1.jpg")
    for resize in ("stretch", "crop", "pad"):
        source = folder(root, resize=resize, channels=1)
        table = source.load("train")
        reader = PictureReader(**source.constants()["reader"]["init_args"])
        new = reader.read(root, labelled=True)
        row = new.class_names.index(table.names[0])
        assert torch.equal(table.preprocess(table.examples_of(0)), new.x[row : row + 1])


def test_umlauts_and_spaces_and_read_only_folders(tmp_path):
    root = fill(
        tmp_path / "Mäin Ordner", [f"{name}/Bild {n}.png" for name in ("Äpfel", "Über uns", "ß") for n in range(2)]
    )
    for path in [*root.rglob("*"), root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert all_names(folder(root)) == ["Äpfel", "Über uns", "ß"]
    finally:
        for path in [root, *root.iterdir()]:
            path.chmod(0o755)


def test_accents_that_are_stored_apart_are_the_same_name(tmp_path):
    root = fill(tmp_path / "data", ["A\u0308pfel/1.png", "b/1.png", "c/1.png"])
    (tmp_path / "split.yaml").write_text("train: [Äpfel]\nval: [b]\ntest: [c]\n", encoding="utf-8")
    assert names(folder(root, split_file=str(tmp_path / "split.yaml")))["train"] == ["Äpfel"]


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    outside = fill(tmp_path / "outside", ["1.png", "2.png"])
    root = fill(tmp_path / "data", ["b/1.png", "c/1.png"], 5)
    (root / "a").symlink_to(outside)
    assert "a" in all_names(folder(root))
    (root / "b" / "loop").symlink_to(root)
    assert "lies in a folder of a class folder" in refused(folder(root))


def test_a_name_that_is_no_text_is_refused(tmp_path):
    root = fill(tmp_path / "data", class_paths())
    (root / "class 0" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    assert r"class 0/\udcff.png' in " in (said := refused(folder(root)))
    assert said.endswith("is not valid UTF-8; rename it")


def test_three_pictures_and_ten_thousand_classes_answer_in_seconds(tmp_path):
    few = fill(tmp_path / "few", [f"{split}/{split}/1.png" for split in SPLITS])
    archive = tmp_path / "many.zip"
    contents = (few / "train/train/1.png").read_bytes()
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(10_000):
            file.writestr(f"c{number}/1.png", contents)
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"data\.ways is 5, but split 'train' has 1 classes; lower data\.ways"):
        EpisodicDataModule(folder(few), ways=5).setup("fit")
    with pytest.raises(ConfigError, match="are in two splits"):
        folder(archive).load("train")
    assert time.process_time() - start < 20


def test_parallel_and_serial_decoding_agree(tmp_path, monkeypatch):
    root = fill(tmp_path / "data", class_paths())
    pictures = PictureFiles.of(root)
    items = decoding.DecodableFiles(pictures, [file.path for file in pictures.files])

    def decode():
        parts = [*decode_all(items, PictureReader(SIZE), "data")]
        return np.concatenate([part.pixels for part in parts]), [text for part in parts for text in part.checksums]

    serial = decode()
    monkeypatch.setattr(decoding, "_MIN_PARALLEL", 0)
    monkeypatch.setattr(decoding, "_cpus", lambda: 3)
    for platform in (sys.platform, "darwin"):  # processes, and threads
        monkeypatch.setattr(decoding.sys, "platform", platform)
        parallel = decode()
        assert np.array_equal(serial[0], parallel[0])
        assert serial[1] == parallel[1]


class _Killed:
    """Pictures whose decoding ends its process."""

    def __len__(self):
        return 100

    def decode(self, number, reader):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="decodes in threads")
def test_a_process_that_is_killed_does_not_hang_the_command(monkeypatch):
    monkeypatch.setattr(decoding, "_cpus", lambda: 2)
    with pytest.raises(
        ConfigError, match="a process that was decoding data was ended from outside, perhaps because mem"
    ):
        [*decode_all(_Killed(), PictureReader(SIZE), "data")]


def test_two_processes_that_start_at_once_read_the_same(tmp_path, cache_folder, repository):
    root = fill(tmp_path / "data", class_paths(10, 20))
    code = f"""
from meta_lightning.data import Folder
source = Folder({str(root)!r}, image_size=20)
source.prepare()  # without the lock of the data module
print(source.fingerprint(), sum(source.load(split).examples_of(0).sum().item() for split in ("train", "val", "test")))
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert said[0] == said[1]
    assert [path.suffix for path in cache_folder.iterdir()] == [".rows"]


def test_the_command_line_trains_on_a_folder(tmp_path, capsys):
    root = fill(tmp_path / "my pictures", class_paths(20, 4))
    arguments = [
        "fit", "--model=ProtoNetModule", "--model.net=Conv4", "--model.net.width=2", "--model.net.downsample=stride",
        "--data.source=Folder", f"--data.source.root={root}", "--data.source.image_size=8", "--data.ways=2",
        "--data.queries=1", "--data.val_tasks=2", "--trainer.max_steps=1", "--trainer.val_check_interval=1",
        "--trainer.accelerator=cpu", "--trainer.num_sanity_val_steps=0", "--model.net.in_channels=3",
        "--model.net.image_size=8",
    ]  # fmt: skip
    assert main(arguments) == 0
    shutil.rmtree(root / "class 3")
    (root / "class 3").write_text("no folder")
    shutil.move(root / "class 4" / "1.png", root / "1.png")
    capsys.readouterr()
    assert main(arguments) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"error: data.source.root: {root}/1.png lies in no class")
    )
