"""What the tests of hostile input share: commands that must leave no trace, configs to spoil, random values and damage.

The normal run tries a few inputs of each kind. To search for defects with a hundred times as many:

    HOSTILE_TIMES=100 python -m pytest tests/hostile
"""

import contextlib
import copy
import io
import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from meta_lightning.algorithms import MAMLModule, MetaSGDModule, ProtoNetModule, ReptileModule
from meta_lightning.cli import main
from meta_lightning.data import Glyphs, Omniglot, Sinusoid
from meta_lightning.nets import MLP, Conv4

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


FLIPS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4)


def flipped(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    spoilt = bytearray(data)
    for place, bits in flips:
        spoilt[place % len(data)] ^= bits
    return bytes(spoilt)
