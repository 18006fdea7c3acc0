"""Random values at our keys, broken zips, spoilt checkpoints and odd YAML: exit code 2, a message, nothing changed.

The normal run tries a few inputs of each kind. To search for defects with a hundred times as many (half an hour):

    HOSTILE_TIMES=100 python -m pytest tests/reliability/test_hostile_input.py
"""

import contextlib
import copy
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils._pytree import tree_flatten

from meta_lightning.algorithms import MAMLModule, MetaModule, MetaSGDModule, ProtoNetModule, ReptileModule
from meta_lightning.callbacks import Checkpoints
from meta_lightning.cli import main
from meta_lightning.data import EpisodicDataModule, Glyphs, Omniglot, Sinusoid
from meta_lightning.data.sources import glyphs, omniglot
from meta_lightning.nets import MLP, Conv4

# What Lightning warns of (few workers, short runs) is no error for people either.
pytestmark = pytest.mark.filterwarnings("default")

TIMES = float(os.environ.get("HOSTILE_TIMES", "1"))
SMALL = {"val_tasks": 2, "test_tasks": 2, "meta_batch_size": 2, "eval_batch_size": 2, "shots": 1, "queries": 1}
TRAINER = {
    "max_steps": 1, "val_check_interval": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0, "accelerator": "cpu",
    "enable_progress_bar": False, "enable_model_summary": False,
    "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}},
}  # fmt: skip


def examples(count: int) -> settings:
    """The same inputs in each run; nothing is kept in a folder of Hypothesis's own."""
    return settings(
        max_examples=max(1, round(TIMES * count)),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # to make a failing input smaller takes minutes of whole commands
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def contents() -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in Path.cwd().rglob("*")}


def run(arguments: list[str]) -> tuple[int, str]:
    """A command's exit code and message; nothing is written where it is refused."""
    before = contents()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(arguments)
    said = errors.getvalue()
    assert "Traceback" not in said
    if code != 2:
        return code, said
    assert contents() == before, "something was written"
    message = said[said.index("error: ") :]
    assert message.count("\n") <= 2
    return code, message


@pytest.fixture(autouse=True)
def _nothing_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, outside of the folder that commands run in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


# ---------------------------------------------------------------------------------------------------------------------
# Random values at our own keys.
# ---------------------------------------------------------------------------------------------------------------------

ODD = [
    "", " ", "~", "null", "NaN", ".nan", ".inf", "-.inf", "1e999", "0x10", "0o7", "1_000", "1:2:3", "2001-01-01", "yes",
    "None", "[", "]", "{", "{}", "[]", "[1, 2", "{a: b}", "a: b: c", "&a [*a]", "*a", "!!python/name:os.system",
    "!!python/object/apply:os.system ['touch pwned']", "@", "%", "`", "'", '"', "\t", "\n", "--", "--x", "=", "-1",
    "$HOME", "%s", "{0}", "..", "/", "os", "os.getcwd", "os.nope", "math.sqrt", "builtins.print", "torch.nn.Linear",
    "torch.nn", "torch", "MLP", "Conv4", "Sinusoid", "auto", "best", "a.b.c", ".", "a.", ".a", "1.", "é", "🙂",
    "\u202e", "\ufeff", "x" * 300,
]  # fmt: skip
# Numbers of things stay below 4 where they are possible: a billion inner steps are no mistake that can be seen.
# Of the huge ones only those stand here that no count can have.
NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([2**63, 2**64, 10**30, -(10**30), -(2**31), 1.0, -0.0, 0.5, 1e-320, 1e300, -1e300])
    | st.sampled_from([float("nan"), float("inf"), float("-inf")])
    | st.floats(-3, 3)
)
TEXTS = st.sampled_from(ODD) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4
)

# Algorithm, net and source: each of ours at least once, and what the data need.
SETUPS: dict[str, tuple[type, type, type, dict[str, Any], dict[str, Any]]] = {
    "maml": (MAMLModule, MLP, Sinusoid, {"in_features": 1, "out_features": 1, "hidden": [3]}, {}),
    "reptile": (ReptileModule, MLP, Sinusoid, {"in_features": 1, "out_features": 1, "hidden": [3]}, {}),
    "meta_sgd": (MetaSGDModule, MLP, Glyphs, {"in_features": 784, "hidden": [3]}, {"ways": 2}),
    "protonet": (ProtoNetModule, Conv4, Omniglot, {"width": 2}, {"ways": 2}),
}


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


def config(setup: str) -> dict[str, Any]:
    algorithm, net, source, net_args, data = SETUPS[setup]
    sizes = {"root": str(Path.cwd()), "image_size": 28} if source is Omniglot else {}
    return {
        "model": {
            "class_path": algorithm.__name__,
            "init_args": {"net": {"class_path": net.__name__, "init_args": copy.deepcopy(net_args)}},
        },
        "data": {"source": {"class_path": source.__name__, "init_args": sizes}, **SMALL, **data},
        "trainer": TRAINER,
    }


def put(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *path, last = key.split(".")
    section = settings
    for name in path:
        section = section.setdefault(name, {})
    section[last] = value
    return settings


def slow(key: str, value: Any) -> bool:
    """Values that are fine, and that cost what they say: processes and downloads."""
    wanted = yaml.safe_load(value) if isinstance(value, str) else value
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
    monkeypatch.setattr(omniglot, "read_pictures", lambda archives, size: noise(characters, 2, size))
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
        assert names[-1] in message or f"{names[0]}.{names[1]}" in message


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
    with contextlib.suppress(yaml.YAMLError, ValueError):
        if slow(key, text):
            return
    Path("case.yaml").write_text(yaml.safe_dump(config(setup)))
    check(key, ["fit", "--config", "case.yaml", f"--{key.replace('.init_args', '')}={text}"])


# ---------------------------------------------------------------------------------------------------------------------
# YAML that is none, or too much.
# ---------------------------------------------------------------------------------------------------------------------

# A hundred thousand nodes in a few lines, and not the billion of the original: that would stop the tests for an hour.
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 6)
)


NO_CONFIG = [
    b"", b"\n", b"# nothing\n", b"null", b"[]", b"[1, 2]", b"- model\n- data\n", b"7", b"text", b"\0", b"\xff\xfe",
    b"\x80\x02}q\x00.", b"PK\x03\x04", bytes(range(256)), b"model: [\n", b"{" * 20, b"a: " * 3, b"\t", b"%YAML 9.9",
    b"--- 1\n--- 2\n", b"&a [*a]", b"model: &a {init_args: *a}", b"data: &a\n  source: *a\n", b"<<: 3", b"<<: *a",
    b"? [1, 2]\n: 3", b"1: 2", b"null: 2", b"data: {1: 2}", b"data: {shots: {queries: 1}}",
    b"trainer: {logger: [[[]]]}", BOMB.encode(), BOMB.encode() + b"data: {shots: *a5}", BOMB.encode() + b"model: *a5",
    b"model: " + b"{a: " * 200 + b"1" + b"}" * 200, b"data: {shots: " + b"[" * 200 + b"]" * 200 + b"}",
    b"data: {shots: " + b"9" * 5000 + b"}", b"!!python/object/apply:os.system ['touch pwned']",
    b"model: !!python/object/apply:os.system ['touch pwned']", b"config: case.yaml", b"subcommand: test",
    b"fit: {model: 1}", b"ckpt_path: [1]", b"untrained: x", b"seed_everything: [1]",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_CONFIG, ids=range(len(NO_CONFIG)))
def test_yaml_that_is_none_is_refused(text: bytes) -> None:
    Path("case.yaml").write_bytes(text)
    code, _ = run(["fit", "--config", "case.yaml"])
    assert code == 2
    assert not Path("pwned").exists()


@examples(3)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode) | VALUES.map(yaml.safe_dump).map(str.encode))
def test_any_file_as_config_is_refused(text: bytes) -> None:
    Path("case.yaml").write_bytes(text)
    assert run(["fit", "--config", "case.yaml"])[0] == 2


@pytest.mark.slow
def test_brackets_without_end_are_refused() -> None:
    """In a process of its own: what recurses in C takes the process with it."""
    Path("case.yaml").write_bytes(b"[" * 100_000)
    command = [sys.executable, "-m", "meta_lightning", "fit", "--config", "case.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "error: " in done.stderr


def test_a_key_given_twice_is_refused() -> None:
    text = yaml.safe_dump(config("maml"))
    Path("case.yaml").write_text(text.replace("  shots: 1\n", "  shots: 1\n  shots: 2\n"))
    code, message = run(["fit", "--config", "case.yaml"])
    assert (code, "shots" in message) == (2, True)


# ---------------------------------------------------------------------------------------------------------------------
# Broken zips.
# ---------------------------------------------------------------------------------------------------------------------


def picture(kind: str = "PNG", mode: str = "1") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (9, 9), 1).save(file, kind)
    return file.getvalue()


def packed(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return file.getvalue()


MEMBERS = [(f"images_background/Latin/character{n:02}/{n:04}_01.png", picture()) for n in range(3)]
WHOLE = packed(MEMBERS)
FLIPS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4)


def flipped(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    spoilt = bytearray(data)
    for place, bits in flips:
        spoilt[place % len(data)] ^= bits
    return bytes(spoilt)


def fields(change: Callable[[bytearray, int, int], None]) -> bytes:
    """The archive with the headers of its first member changed: the local one, and that in the directory."""
    spoilt = bytearray(WHOLE)
    change(spoilt, 0, spoilt.index(b"PK\x01\x02"))
    return bytes(spoilt)


def refuse_zip(data: bytes, tmp_path: Path) -> str:
    """The message about an archive: it names it, or says that it is not the official one."""
    folder = tmp_path / "zips"
    folder.mkdir(exist_ok=True)
    (folder / "images_background.zip").write_bytes(data)
    (folder / "images_evaluation.zip").write_bytes(packed([]))
    settings = config("protonet")
    settings["data"]["source"]["init_args"] = {"root": str(folder), "download": False}
    Path("case.yaml").write_text(yaml.safe_dump(settings))
    code, message = run(["fit", "--config", "case.yaml"])
    assert code == 2
    assert "images_background.zip" in message or f"are not in {folder}" in message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "images_background.zip": data,
        "images_evaluation.zip": packed([]),
    }
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "zips", "cache"}, "unpacked outside of its folder"
    return message


@pytest.mark.parametrize("name", ["a\nb/1.png", "a\x1b[2J/1.png"], ids=["line end", "escape"])
def test_a_name_that_would_spoil_the_message_is_quoted(tmp_path: Path, name: str) -> None:
    message = refuse_zip(packed([*MEMBERS, (name, b"no picture")]), tmp_path)
    assert message.count("\n") == 1
    assert "\x1b" not in message


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    data = packed([*MEMBERS, ("é.png", picture())]).replace("é".encode(), b"\xff\xff")
    assert "images_background.zip is broken (" in refuse_zip(data, tmp_path)


def test_a_damaged_lzma_stream_is_refused(tmp_path: Path) -> None:
    data = bytearray(packed([(MEMBERS[0][0], bytes(200))], zipfile.ZIP_LZMA))
    start = 30 + len(MEMBERS[0][0])
    data[start + 4] = 0xFF  # the first byte of its properties
    assert "images_background.zip" in refuse_zip(bytes(data), tmp_path)


@examples(3)
@given(
    st.binary(max_size=200) | st.binary(max_size=50).map(lambda data: b"PK\x03\x04" + data + b"PK\x05\x06" + bytes(18))
)
def test_random_bytes_are_no_zip(tmp_path: Path, data: bytes) -> None:
    assert "images_background.zip is broken (" in refuse_zip(data, tmp_path) or zipfile.is_zipfile(io.BytesIO(data))


@examples(3)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_zip_is_named(tmp_path: Path, size: int) -> None:
    assert "images_background.zip is broken (" in refuse_zip(WHOLE[:size], tmp_path)


@examples(3)
@given(FLIPS, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
def test_flipped_bytes_of_a_zip_are_refused(tmp_path: Path, flips: list[tuple[int, int]], method: int) -> None:
    refuse_zip(flipped(packed(MEMBERS, method), flips), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../out.png", "images/../../out.png", "/out.png", "//server/out.png", "C:/out.png", "C:\\out.png", "..\\out.png",
     "a\\..\\..\\out.png", "~/../out.png", "../out.txt"],
)  # fmt: skip
def test_members_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    message = refuse_zip(packed([*MEMBERS, (name, picture())]), tmp_path)
    assert f"images_background.zip: {name}" in message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    message = refuse_zip(packed([*MEMBERS, MEMBERS[0]]), tmp_path)
    assert f"images_background.zip: {MEMBERS[0][0]}" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, local, entry: struct.pack_into("<H", z, entry + 8, 1) or struct.pack_into("<H", z, local + 6, 1),
         "is encrypted"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 16, 7) or struct.pack_into("<I", z, local + 14, 7),
         "Bad CRC-32"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 2**31 - 1), "declares 2147483647 bytes"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 2**20 + 1), "declares 1048577 bytes"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 10), "images_background.zip is broken (Bad CRC"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 0), "images_background.zip is broken (Bad CRC"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 20, 0), "images_background.zip"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 42, 2**31), "images_background.zip"),
        (lambda z, local, entry: struct.pack_into("<H", z, entry + 10, 99) or struct.pack_into("<H", z, local + 8, 99),
         "compression"),
    ],
    ids=["encrypted", "CRC", "bomb", "large", "short", "empty", "no stream", "offset", "method"],
)  # fmt: skip
def test_headers_that_lie_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    assert message in refuse_zip(fields(change), tmp_path)


@examples(3)
@given(
    st.sampled_from([b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
    | st.builds(lambda data, flips: flipped(data, flips), st.sampled_from([picture(), picture(mode="P")]), FLIPS)
    | st.builds(lambda data, size: data[:size], st.sampled_from([picture(), picture(mode="RGB")]), st.integers(0, 60))
    | st.binary(max_size=40).map(lambda data: picture()[:16] + data + picture()[16:])
)
def test_a_picture_that_does_not_decode_is_named(tmp_path: Path, data: bytes) -> None:
    message = refuse_zip(packed([*MEMBERS, ("images_background/Latin/character09/0009_01.png", data)]), tmp_path)
    assert "character09/0009_01.png" in message or f"are not in {tmp_path / 'zips'}" in message


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "BMP", "PDF", "ICO", "PPM"])
def test_a_picture_of_another_kind_is_named(tmp_path: Path, kind: str) -> None:
    """Some kinds are given to other programs to decode (EPS to Ghostscript)."""
    mode = "L" if kind == "EPS" else "RGB"
    message = refuse_zip(packed([*MEMBERS, ("images_background/x/1.png", picture(kind, mode))]), tmp_path)
    assert "images_background/x/1.png does not decode" in message


# ---------------------------------------------------------------------------------------------------------------------
# Spoilt checkpoints.
# ---------------------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("command", ["test", "validate"])
@examples(4)
@given(st.randoms(use_true_random=False), VALUES | st.just(...))
def test_a_checkpoint_with_one_strange_entry_is_refused_or_works(
    trained: bytes, command: str, chance: Any, value: Any
) -> None:
    checkpoint = torch.load(io.BytesIO(trained), weights_only=True)
    *path, last = chance.choice(list(entries(checkpoint)))
    section = checkpoint
    for name in path:
        section = section[name]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    torch.save(checkpoint, file := io.BytesIO())
    code, message = use(file.getvalue(), command)
    assert code in (0, 2) or "is not finite" in message


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
