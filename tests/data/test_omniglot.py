"""Omniglot: on small archives of the same layout, and on the real ones where they are."""

import shutil

import pytest
import torch

from meta_lightning.data import Omniglot
from meta_lightning.data.episodes import keys
from meta_lightning.data.sources import omniglot as source_module
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(small_omniglot, shared_cache, monkeypatch):
    """Makes sources on the small archives, which are read once for all tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))

    def make(**settings):
        return Omniglot(**{"root": str(small_omniglot), "image_size": 8, **settings})

    return make


def names(source):
    return {split: source.load(split).names for split in SPLITS}


def sizes(source):
    return [len(members) for members in names(source).values()]


def test_the_vinyals_split_has_its_published_sizes(vinyals, small):
    assert [len(vinyals[split]) for split in SPLITS] == [1028, 172, 423]
    assert sizes(small(split="vinyals")) == [1028, 172, 423]


def test_the_vinyals_lists_are_disjoint_and_sorted_by_archive(vinyals):
    everything = [name for members in vinyals.values() for name in members]
    assert len(set(everything)) == len(everything) == 1623
    assert sum(name.startswith("images_background/") for name in everything) == 964
    assert sum(name.startswith("images_evaluation/") for name in everything) == 659


def test_the_random_split_has_the_sizes_of_the_maml_paper(small):
    members = names(small(split="random"))
    assert [len(members[split]) for split in SPLITS] == [1100, 100, 423]
    assert len({name for split in SPLITS for name in members[split]}) == 1623


def test_the_random_split_depends_on_its_seed_alone(small):
    expected = names(small(split="random", split_seed=3))
    torch.manual_seed(99)
    assert names(small(split="random", split_seed=3, rotations="as_classes")) == expected
    for split, members in names(small(split="random", split_seed=4)).items():
        assert set(members) != set(expected[split])


def test_the_division_of_lake_shares_no_alphabet(small):
    source = small(split="lake")
    members = names(source)
    assert len(members["train"]) + len(members["val"]) == 964
    assert len(members["test"]) == 659
    assert all(name.startswith("images_evaluation/") for name in members["test"])
    alphabets = {split: {name.rpartition("/")[0] for name in members[split]} for split in SPLITS}
    assert {split: len(found) for split, found in alphabets.items()} == {"train": 25, "val": 5, "test": 20}
    assert not alphabets["train"] & alphabets["val"]
    other = small(split="lake", split_seed=1)
    assert set(names(other)["val"]) != set(members["val"])
    assert set(names(other)["test"]) == set(members["test"])
    assert other.fingerprint() != source.fingerprint()


# Another scheme would train on what published runs were tested on.
def test_the_random_split_is_fixed_for_ever(small):
    begins = {split: members[:2] for split, members in names(small(split="random")).items()}
    assert begins == {
        "train": [
            "images_background/Grantha/character23",
            "images_evaluation/Old_Church_Slavonic_(Cyrillic)/character30",
        ],
        "val": ["images_background/Greek/character19", "images_evaluation/Tengwar/character16"],
        "test": ["images_evaluation/Malayalam/character16", "images_background/Asomtavruli_(Georgian)/character04"],
    }


def test_pictures_go_with_their_names(small, vinyals):
    everything = sorted(name for members in vinyals.values() for name in members)
    for split in SPLITS:
        family = small().load(split)
        bits = (family.x[family.counts.cumsum(0) - family.counts, 0, :2].flatten(1) == 255).long()
        numbers = (bits << torch.arange(16)).sum(1)
        assert [everything[number] for number in numbers] == family.names == vinyals[split]


@pytest.mark.parametrize(("rotations", "classes"), [("none", 172), ("per_task", 172), ("as_classes", 688)])
def test_rotations_are_passed_on(small, rotations, classes):
    with pytest.raises(ConfigError, match=rf"split 'val' has {classes} classes"):
        small(rotations=rotations).load("val").check(EpisodeShape(1000, 1, 1))


@pytest.fixture
def reader(tmp_path, cache_folder, monkeypatch):
    """Stands in for the reader of archives: returns ``reader.read``, and notes the sizes that it was asked for."""

    def read_pictures(archives, reader):
        assert [archive.name for archive in archives] == ["images_background.zip", "images_evaluation.zip"]
        read_pictures.sizes.append(reader.image_size)
        return read_pictures.read

    read_pictures.sizes = []
    read_pictures.read = {"images": torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8), "names": ["a"]}
    monkeypatch.setattr(source_module, "read_pictures", read_pictures)
    for archive in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / archive).write_bytes(b"contents")
    return read_pictures


def test_archives_are_read_once_for_each_size_and_content(tmp_path, reader):
    for settings in ({}, {}, {"split": "random"}, {"image_size": 20}, {"rotations": "none"}):
        Omniglot(root=str(tmp_path), **settings).prepare()
    assert reader.sizes == [28, 20]
    before = Omniglot(root=str(tmp_path)).fingerprint()
    (tmp_path / "images_evaluation.zip").write_bytes(b"other contents")
    Omniglot(root=str(tmp_path)).prepare()
    assert reader.sizes == [28, 20, 28]
    assert Omniglot(root=str(tmp_path)).fingerprint() != before


def test_the_fingerprint_tells_data_and_splits_apart(small):
    sources = [small(), small(image_size=6), small(split="random"), small(split="random", split_seed=1)]
    sources.append(small(rotations="none"))
    assert len({source.fingerprint() for source in sources}) == 5
    assert small().fingerprint() == small().fingerprint()


def test_constants_say_how_to_make_a_picture_alike(small):
    constants = small().constants()
    settings = {"image_size": 8, "channels": 1, "resize": "stretch", "inverted": True}
    assert constants["reader"]["init_args"] == settings
    assert constants["scale"] == 1 / 255


def test_a_folder_without_archives_is_refused(tmp_path):
    with pytest.raises(ConfigError) as refused:
        Omniglot(root=str(tmp_path / "nowhere")).prepare()
    assert str(refused.value) == (
        f"no images_background.zip in {tmp_path / 'nowhere'}: set data.source.root to its folder, "
        "or data.source.download to true"
    )


def test_the_absent_one_of_the_two_archives_is_named(small, small_omniglot, tmp_path):
    shutil.copy(small_omniglot / "images_background.zip", tmp_path)
    with pytest.raises(ConfigError, match=r"no images_evaluation\.zip in"):
        small(root=str(tmp_path)).prepare()


def test_constructing_touches_no_file(tmp_path):
    Omniglot(root=str(tmp_path / "nowhere"), download=True)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("shared", "folder"), [("/shared", "/shared/omniglot"), (None, "data/omniglot")])
def test_the_folder_is_found_through_the_environment(monkeypatch, shared, folder):
    monkeypatch.delenv("META_LIGHTNING_DATA", raising=False)
    if shared:
        monkeypatch.setenv("META_LIGHTNING_DATA", shared)
    with pytest.raises(ConfigError, match=f"no images_background.zip in {folder}: "):
        Omniglot().prepare()


def test_download_refuses_archives_that_are_not_the_official_ones(small, small_omniglot):
    before = (small_omniglot / "images_background.zip").read_bytes()
    text = (
        r"images_background\.zip has MD5 \w+, expected 68d2efa1b9178cc56df9314c21c6e718: "
        r"replace the file, or set data\.source\.download to false"
    )
    with pytest.raises(ConfigError, match=text):
        small(download=True).prepare()
    assert (small_omniglot / "images_background.zip").read_bytes() == before


def test_archives_that_lack_a_character_are_refused(tmp_path, reader, vinyals):
    reader.read["names"] = ["images_background/Latin/character01"]
    text = (
        rf"1027 characters of split 'train' are not in {tmp_path}, the first '{vinyals['train'][0]}'; expected the off"
    )
    with pytest.raises(ConfigError, match=text):
        Omniglot(root=str(tmp_path)).load("train")


def test_the_same_drawing_in_two_splits_is_refused(tmp_path, reader, vinyals):
    names = [name for split in SPLITS for name in vinyals[split]]
    images = torch.arange(1623).view(-1, 1, 1, 1, 1) >> torch.tensor([[0, 8], [16, 24]]) & 255
    images[1300] = images[7]
    reader.read = {"images": images.byte(), "names": names}
    with pytest.raises(ConfigError, match=f"'train' and 'test' share a picture: '{names[7]}' and '{names[1300]}'"):
        Omniglot(root=str(tmp_path)).load("val")


# ---- the real archives; their drawings are kept in the user's own cache ----------------------------------------------


@pytest.fixture(scope="module")
def real(real_data):
    return Omniglot(root=str(real_data / "omniglot"), rotations="none")


def test_real_omniglot_is_whole(real):
    assert sizes(real) == [1028, 172, 423]
    for split in SPLITS:
        assert real.load(split).x.shape[1:] == (1, 28, 28)
    # Black ink on white, inverted: a drawing is mostly background.
    assert real.load("test").preprocess(real.load("test").x).mean() < 0.2


def test_real_splits_share_no_character_and_no_drawing(real):
    drawings = [{image.numpy().tobytes() for image in real.load(split).x} for split in SPLITS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert drawings[one].isdisjoint(drawings[other])
    # The data has one drawing twice, in one class.
    assert sum(len(part) for part in drawings) == 1623 * 20 - 1


def test_nearest_class_mean_in_pixels_is_as_good_as_known(real):
    family = real.load("test")
    task = family.draw(keys(0, "test", torch.arange(1000)), EpisodeShape(ways=5, shots=1, queries=5))
    known, asked = (family.preprocess(part.x).flatten(2) for part in (task.support, task.query))
    nearest = torch.cdist(asked, known).argmin(-1)
    right = task.support.y.gather(1, nearest) == task.query.y
    assert right.float().mean().item() == pytest.approx(0.421, abs=0.02)
