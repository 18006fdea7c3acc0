"""YAML that is none, or too much."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from .inputs import VALUES, config, examples, run

# What Lightning warns of (few workers, short runs) is no error for people either.
pytestmark = pytest.mark.filterwarnings("default")

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
