"""Peak memory over the number of inner steps, in processes of their own: peaks of others would hide it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, resource, sys, torch
from torch import nn
from meta_lightning import Examples, MAMLModule, ReptileModule, Task

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def run(make, steps):
    # The activations of one step take 1,000 x 500 floats a layer, 2 MB each; the weights take 1 MB.
    net = nn.Sequential(nn.Linear(1, 500), nn.Tanh(), nn.Linear(500, 500), nn.Tanh(), nn.Linear(500, 1))
    module = eval(make)(net, inner_steps=steps, inner_lr=0.01)
    part = Examples(torch.rand(1, 1000, 1), torch.rand(1, 1000, 1))
    tasks = Task(part, part, *[torch.arange(1)] * 2)
    module.meta_step(module.learnable(), dict(module.named_buffers()), tasks, torch.tensor(0))

torch.set_num_threads(1)
for make in sys.argv[1:]:
    if child := os.fork():  # each method in a process of its own: the peak of one would hide that of the next
        os.waitpid(child, 0)
        continue
    run(make, 1), run(make, 3)
    before = megabytes()
    run(make, 10)
    print(megabytes() - before, flush=True)
    os._exit(0)
"""
FIRST_ORDER = {
    "fomaml": "lambda net, **o: MAMLModule(net, first_order=True, **o)",
    "reptile, adam": "ReptileModule",
    "reptile, sgd": "lambda net, **o: ReptileModule(net, inner_rule='sgd', inner_batch_size=1000, **o)",
}


@pytest.fixture(scope="module")
def growth() -> dict[str, float]:
    """Megabytes that 10 inner steps take at their peak beyond what 3 take."""
    methods = {**FIRST_ORDER, "maml": "MAMLModule"}
    # Every larger piece is handed back to the system at once, so that fragments of the heap are not counted.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *methods.values()],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(zip(methods, map(float, done.stdout.split()), strict=True))


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_first_order_memory_does_not_grow_with_the_inner_steps(growth: dict[str, float], name: str) -> None:
    assert growth[name] < 6


def test_second_order_memory_does(growth: dict[str, float]) -> None:
    """The measurement sees what it should see: MAML keeps every step's graph."""
    assert growth["maml"] > 40
