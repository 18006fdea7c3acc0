"""Small data that the tests make."""

import io
import zipfile
from importlib import resources

import pytest
import torch
from PIL import Image

from meta_lightning.data.sources import LabelledImages

_SPLITS = resources.files("meta_lightning.data.sources") / "splits" / "omniglot_vinyals"


def _png(ink):
    """A black drawing on white, as a 1-bit PNG; ``ink`` is a uint8 table with anything above 0 for ink."""
    file = io.BytesIO()
    Image.fromarray(((torch.as_tensor(ink) == 0) * 255).byte().numpy()).convert("1").save(file, "PNG")
    return file.getvalue()


def _number(number):
    """A drawing that spells a number in binary."""
    ink = torch.zeros(8, 8, dtype=torch.uint8)
    ink[:2] = torch.tensor([number >> place & 1 for place in range(16)]).view(2, 8)
    return ink


@pytest.fixture(scope="session")
def write_zip():
    """Writes a zip of ``{inner path: contents}``."""

    def write(path, contents):
        with zipfile.ZipFile(path, "w") as file:
            for name, data in contents.items():
                file.writestr(name, data)
        return path

    return write


@pytest.fixture(scope="session")
def png():
    return _png


@pytest.fixture(scope="session")
def vinyals():
    """The class lists of the fixed Omniglot split."""
    return {split: (_SPLITS / f"{split}.txt").read_text().split() for split in ("train", "val", "test")}


@pytest.fixture(scope="session")
def small_omniglot(tmp_path_factory, write_zip, vinyals):
    """The layout and the 1,623 class names of Omniglot, with a drawing of its own number for each."""
    folder = tmp_path_factory.mktemp("omniglot")
    names = sorted(name for members in vinyals.values() for name in members)
    drawings = {f"{name}/{number:04d}_01.png": _png(_number(number)) for number, name in enumerate(names)}
    for archive in ("images_background", "images_evaluation"):
        inside = {path: data for path, data in drawings.items() if path.startswith(archive)}
        write_zip(folder / f"{archive}.zip", inside)
    return folder


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """An empty cache, and the folder that this package has in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "meta_lightning"


@pytest.fixture(scope="session")
def coded_table():
    """Makes tables of 2x2 pictures that say which class and example they are, and how they are turned."""

    def make(classes=6, examples=7, rotations="none"):
        images = torch.zeros(classes, examples, 1, 2, 2, dtype=torch.uint8)
        images[:, :, 0, 0, 0] = torch.arange(classes)[:, None]
        images[:, :, 0, 0, 1] = torch.arange(examples)
        images[:, :, 0, 1] = torch.tensor([200, 201], dtype=torch.uint8)
        return LabelledImages(
            images, [f"class{number}" for number in range(classes)], rotations=rotations, split="train"
        )

    return make


@pytest.fixture(scope="session")
def decode():
    """Reads ``(class, turn, example)`` off a picture of a coded table."""

    def read(picture):
        for turn in range(4):
            upright = torch.rot90(picture, -turn, (-2, -1))[0].tolist()
            if upright[1] == [200, 201]:
                return upright[0][0], turn, upright[0][1]
        pytest.fail(f"no turn of a coded picture: {picture.tolist()}")

    return read
