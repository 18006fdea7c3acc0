"""The allocator keeps freed memory: pages are taken from the system once."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from meta_lightning.engine.allocator import keep_freed_memory
print(keep_freed_memory())
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2**20) for _ in range(20)]  # 80 MB in pieces of 4 MB, freed together
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def run(**environment: str) -> tuple[str, int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=own | environment, capture_output=True, text=True, check=True
    )
    was_set, faults = done.stdout.split()
    return was_set, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has these settings")
def test_freed_buffers_are_used_again_unless_the_environment_says_otherwise() -> None:
    was_set, faults = run()
    assert was_set == "True"
    assert faults < 1000
    was_set, faults = run(MALLOC_ARENA_MAX="1")
    assert was_set == "False"
    assert faults > 100_000  # the measurement sees what it should see
