"""Random values at our own keys: taken, or refused by the key's name."""

import contextlib
import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meta_lightning.algorithms import MetaModule
from meta_lightning.callbacks import Checkpoints
from meta_lightning.data import EpisodicDataModule
from meta_lightning.data.sources import glyphs, omniglot

from .inputs import SETUPS, VALUES, config, examples, run

# What Lightning warns of (few workers, short runs) is no error for people either.
pytestmark = pytest.mark.filterwarnings("default")


def parameters(owner: type) -> list[str]:
    own = [name for name, it in signature(owner).parameters.items() if it.kind is not it.VAR_KEYWORD]
    shared = [*signature(MetaModule.__init__).parameters][1:] if issubclass(owner, MetaModule) else []
    return sorted({*own, *shared})


def keys(setup: str) -> list[tuple[str, str]]:
    """Every key of ours, as a path into the YAML."""
    algorithm, net, source, *_ = SETUPS[setup]
    owners = {
        "model.init_args": algorithm,
        "model.init_args.net.init_args": net,
        "data": EpisodicDataModule,
        "data.source.init_args": source,
        "checkpoint": Checkpoints,
    }
    return [(setup, f"{path}.{name}") for path, owner in owners.items() for name in parameters(owner)]


KEYS = [pair for setup in SETUPS for pair in keys(setup)]


def put(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *path, last = key.split(".")
    section = settings
    for name in path:
        section = section.setdefault(name, {})
    section[last] = value
    return settings


def slow(key: str, value: Any) -> bool:
    """Values that are fine, and that cost what they say: processes and downloads."""
    wanted = value
    if isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError, ValueError):
            wanted = yaml.safe_load(value)
    name = key.rpartition(".")[2]
    return (name == "num_workers" and isinstance(wanted, int) and wanted > 0) or (name == "download" and wanted is True)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in place of letters and drawings: making them takes seconds for each new size."""

    def noise(names: list[str], count: int, size: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(sum(names[0].encode()))  # no two splits share a picture
        shape = (len(names), count, 1, size, size)
        return {"images": torch.randint(256, shape, dtype=torch.uint8, generator=generator), "names": names}

    lists = Path(omniglot.__file__).parent / "splits/omniglot_vinyals"
    characters = sorted(" ".join(path.read_text() for path in lists.glob("*.txt")).split())
    monkeypatch.setattr(omniglot, "read_pictures", lambda archives, reader: noise(characters, 2, reader.image_size))
    monkeypatch.setattr(
        glyphs,
        "draw_letters",
        lambda count: {
            split: noise([f"{split}{n}" for n in range(3)], count, 28) for split in ("train", "val", "test")
        },
    )
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # takes half a minute
    for archive in ("images_background.zip", "images_evaluation.zip"):
        Path(archive).write_bytes(b"stands for itself")


def check(key: str, arguments: list[str]) -> None:
    code, message = run(arguments)
    shutil.rmtree("logs", ignore_errors=True)
    if code == 1:
        assert "is not finite" in message  # a rate that is a number all the same
    if code == 2:
        names = key.replace(".init_args", "").split(".")
        # The parser does not say where it found a name such as `a..b`.
        assert names[-1] in message or f"{names[0]}.{names[1]}" in message or "is not a setting's name" in message


@pytest.mark.usefixtures("pictures")
@examples(4)
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_in_yaml_is_taken_or_refused_by_name(setup_and_key: tuple[str, str], value: Any) -> None:
    setup, key = setup_and_key
    if slow(key, value):
        return
    Path("case.yaml").write_text(yaml.safe_dump(put(config(setup), key, value), allow_unicode=True), encoding="utf-8")
    check(key, ["fit", "--config", "case.yaml"])


@pytest.mark.usefixtures("pictures")
@examples(4)
@given(st.sampled_from(KEYS), VALUES.map(lambda value: value if isinstance(value, str) else json.dumps(value)))
def test_any_value_on_the_command_line_is_taken_or_refused_by_name(setup_and_key: tuple[str, str], text: str) -> None:
    setup, key = setup_and_key
    if slow(key, text):
        return
    Path("case.yaml").write_text(yaml.safe_dump(config(setup)))
    check(key, ["fit", "--config", "case.yaml", f"--{key.replace('.init_args', '')}={text}"])
