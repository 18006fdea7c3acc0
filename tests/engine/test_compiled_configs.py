"""The compiler that ships, on every shipped config and on the random numbers that compiled code draws."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from meta_lightning.cli.app import MetaCLI
from meta_lightning.engine.compiling import COMPILER

from ..algorithms.test_conformance import flat
from ..own_data import data_options, write_own_data

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))

pytestmark = [
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # of torch itself
]

# Compiled code once wrote beyond its output, so it runs in a process of its own.
DRAWS = """
import torch
from meta_lightning.functional import random
def draw(keys):
    return random.choose(random.fold(keys[:, None], torch.arange(37)), 50, 50), random.uniform(keys, 50)
keys = random.fold(random.key(0), torch.arange(3))
drawn = torch.compile(draw, fullgraph=True, dynamic=False)(keys)
print(all(map(torch.equal, drawn, draw(keys))))
"""


def test_compiled_code_draws_the_same_random_numbers() -> None:
    process = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "True\n"), process.stderr


class Built(MetaCLI):
    """Builds the objects of a config and runs no command."""

    def run_command(self, command: str) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_compiled_meta_gradient_of_a_config_is_the_eager_one(config: Path, roots: dict[str, Path]) -> None:
    arguments = ["--config", str(config), "--trainer.accelerator=cpu", "--model.compile=true"]
    write_own_data()
    arguments += data_options(config, roots)
    with warnings.catch_warnings(action="ignore"):  # the parser's, as in `cli.main`
        built = Built(["fit", *arguments])
    module, data = built.model.double(), built.datamodule
    data.prepare_data()
    tasks = data.on_after_batch_transfer(data.draw("train", torch.arange(2)), 0)
    tasks = tree_map_only(Tensor, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, tasks)
    inputs = module.learnable(), dict(module.named_buffers()), tasks, torch.tensor(0)
    eager, _, _ = module.meta_step(*inputs)
    torch.compiler.reset()
    module.set_backend(module.backend, compiler=COMPILER)
    compiled, _, _ = module.meta_step(*inputs)
    gap = (flat(compiled) - flat(eager)).norm() / flat(eager).norm()
    # Adam divides by the size of an entry's gradient plus 1e-8, which enlarges the rounding of entries near zero.
    assert gap < (1e-7 if getattr(module, "inner_rule", "") == "adam" else 1e-10)
