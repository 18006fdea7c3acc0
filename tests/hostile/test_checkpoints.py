"""Checkpoints that are cut short, damaged, edited, or that would run code."""

import io
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_flatten

from .inputs import FLIPS, VALUES, config, examples, flipped, run

# What Lightning warns of (few workers, short runs) is no error for people either.
pytestmark = pytest.mark.filterwarnings("default")

COMMANDS = ["fit", "test", "validate"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole checkpoint."""
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("trained"))
    try:
        Path("case.yaml").write_text(yaml.safe_dump(config("maml")))
        assert run(["fit", "--config", "case.yaml"])[0] == 0
        (found,) = Path.cwd().rglob("last.ckpt")
        return found.read_bytes()
    finally:
        os.chdir(here)


def use(checkpoint: bytes, command: str) -> tuple[int, str]:
    """Starts a command from a checkpoint, which stays as it is and leaves no trace."""
    Path("case.yaml").write_text(yaml.safe_dump(config("maml")))
    file = Path("spoilt.ckpt")
    file.write_bytes(checkpoint)
    result = run([command, "--config", "case.yaml", "--ckpt_path=spoilt.ckpt"])
    assert file.read_bytes() == checkpoint
    assert not Path("pwned").exists()
    if result[0] == 2:
        assert {path.name for path in Path.cwd().iterdir()} == {"case.yaml", "spoilt.ckpt"}
        assert "spoilt.ckpt" in result[1]
    for path in Path.cwd().iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return result


@examples(4)
@given(st.sampled_from(COMMANDS), st.floats(0, 1, exclude_max=True))
def test_a_truncated_checkpoint_is_refused(trained: bytes, command: str, part: float) -> None:
    assert use(trained[: int(part * len(trained))], command)[0] == 2


@examples(3)
@given(st.sampled_from(COMMANDS), FLIPS)
def test_a_checkpoint_with_flipped_bytes_is_refused_or_works(
    trained: bytes, command: str, flips: list[tuple[int, int]]
) -> None:
    spoilt = flipped(trained, flips)
    code, _ = use(spoilt, command)
    assert code == 2 or (code == 0 and same(spoilt, trained)), "a spoilt weight or setting was used"


def same(one: bytes, other: bytes) -> bool:
    """Whether two checkpoints hold the same."""
    (left, shape), (right, form) = (
        tree_flatten(torch.load(io.BytesIO(file), weights_only=True)) for file in (one, other)
    )
    return shape == form and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(left, right, strict=True)
    )


def entries(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in nested dicts and lists."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in inside:
        yield (*path, name)
        yield from entries(value, (*path, name))


STRANGE = (
    VALUES
    | st.sampled_from([..., "last.ckpt", "\x1b[2J\n\n", 10**6, 2**62, [[]], [None], {0: 1}])  # `...`: the entry is gone
    | st.sampled_from(
        [torch.tensor(torch.nan), torch.tensor(-5.0), torch.zeros(3), torch.zeros(0), torch.eye(2).long()]
    )
)
NEW_NAMES = [None, None, None, "step", "state_dict", "increment_ready", "+", 7]  # None: an entry that was there


def edited(whole: bytes, chance: random.Random, name: str | int | None, value: Any) -> bytes:
    """A checkpoint with one entry replaced, left out or, beside another, added; each top-level entry is as likely."""
    checkpoint = torch.load(io.BytesIO(whole), weights_only=True)
    # Lightning's own counters and a schedule's state are not checked: only a person who edits them makes them wrong.
    top = chance.choice([name for name in checkpoint if name not in ("loops", "lr_schedulers")])
    *path, last = chance.choice([path for path in entries(checkpoint) if path[0] == top])
    section = checkpoint
    for key in path:
        section = section[key]
    if isinstance(section, dict) and name is not None:
        last = name
    if value is ...:
        section.pop(last, None) if isinstance(section, dict) else section.pop(last)
    else:
        section[last] = value
    torch.save(checkpoint, file := io.BytesIO())
    return file.getvalue()


@pytest.mark.parametrize(("command", "count"), [("fit", 8), ("test", 3), ("validate", 3)])
def test_an_edited_checkpoint_is_refused_or_works(trained: bytes, command: str, count: int) -> None:
    @examples(count)
    @given(st.randoms(use_true_random=False), st.sampled_from(NEW_NAMES), STRANGE)
    def check(chance: random.Random, name: str | int | None, value: Any) -> None:
        code, message = use(edited(trained, chance, name, value), command)
        assert code in (0, 2) or "is not finite" in message

    check()


class _Runs:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


CALLS = [
    (os.system, "touch pwned"), (eval, "open('pwned', 'w')"), (exec, "open('pwned', 'w')"), (open, "pwned", "w"),
    (Path.touch, Path("pwned")), (os.mkdir, "pwned"), (shutil.copy, "case.yaml", "pwned"),
]  # fmt: skip
PLACES: list[Callable[[Any, dict[str, Any]], Any]] = [
    lambda call, whole: call,
    lambda call, whole: {**whole, "extra": call},
    lambda call, whole: {**whole, "state_dict": call},
    lambda call, whole: {**whole, "state_dict": {**whole["state_dict"], "net.0.weight": call}},
    lambda call, whole: {call: whole},
    lambda call, whole: [call],
]


@pytest.mark.parametrize("command", COMMANDS)
@examples(4)
@given(st.sampled_from(CALLS), st.sampled_from(PLACES), st.sampled_from([0, 2, 4, "zip", "legacy"]))
def test_a_pickle_that_would_run_code_is_refused(
    trained: bytes, command: str, call: tuple[Any, ...], place: Any, kind: Any
) -> None:
    checkpoint = place(_Runs(*call), torch.load(io.BytesIO(trained), weights_only=True))
    file = io.BytesIO()
    if isinstance(kind, int):
        pickle.dump(checkpoint, file, protocol=kind)
    else:
        torch.save(checkpoint, file, _use_new_zipfile_serialization=kind == "zip")
    code, message = use(file.getvalue(), command)
    assert code == 2
    assert "holds more than plain data and tensors, and was not run" in message
