"""What every test shares: one thread, a folder of its own, and data found through the environment."""

import io
import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Small tensors: a second thread costs more than it brings.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs in an empty folder, with the random state that the test found given back."""
    monkeypatch.chdir(tmp_path)
    state = torch.random.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - Lightning seeds it
    seeded = {key: os.environ.get(key) for key in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    yield
    torch.random.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])  # noqa: NPY002 - as above
    for key, value in seeded.items():
        os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; skips where there is none."""
    folder = os.environ.get("META_LIGHTNING_DATA")
    if not folder:
        pytest.skip("META_LIGHTNING_DATA is not set: no real data on this machine")
    return Path(folder)


@pytest.fixture(scope="session")
def omniglot_root(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real archives where there are any, else archives of noise in the same layout."""
    if folder := os.environ.get("META_LIGHTNING_DATA"):
        return Path(folder) / "omniglot"
    root = tmp_path_factory.mktemp("omniglot")
    lists = repository / "meta_lightning" / "data" / "sources" / "splits" / "omniglot_vinyals"
    names = sorted(" ".join(path.read_text() for path in lists.glob("*.txt")).split())
    generator = np.random.default_rng(0)
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for name in (name for name in names if name.startswith(part)):
                for drawing in range(20):
                    noise = Image.fromarray(generator.integers(0, 256, (28, 28), dtype=np.uint8))
                    noise.save(picture := io.BytesIO(), "png", compress_level=0)
                    archive.writestr(f"{name}/{drawing:02}.png", picture.getvalue())
    return root


@pytest.fixture(scope="session")
def cifar_root(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in class folders of CIFAR-100. The real pictures take seconds to decode."""
    root = tmp_path_factory.mktemp("cifar")
    lists = repository / "meta_lightning" / "data" / "sources" / "splits" / "cifar_fs"
    generator = np.random.default_rng(0)
    for name in " ".join(path.read_text() for path in lists.glob("*.txt")).split():
        (root / name).mkdir()
        for number in range(20):
            noise = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            noise.save(root / name / f"{number}.png", compress_level=0)
    return root


@pytest.fixture(scope="session")
def roots(omniglot_root: Path, cifar_root: Path) -> dict[str, Path]:
    """The folder of the data of each source that has some."""
    return {"Omniglot": omniglot_root, "CIFARFS": cifar_root}
