"""Signals at random moments, through the command line as people use it: minutes, so behind the mark ``slow``."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

TRIES = 20
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def start(repository: Path, *options: str) -> subprocess.Popen[str]:
    """A run that would take hours, validating and saving twice a second."""
    return subprocess.Popen(
        [sys.executable, "-m", "meta_lightning", "fit", "--config", str(repository / "configs/sinusoid/maml.yaml"),
         "--trainer.max_steps=1000000", "--trainer.val_check_interval=50", "--data.val_tasks=20",
         "--data.meta_batch_size=4", "--data.eval_batch_size=20", "--trainer.accelerator=cpu", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def trained(run: Path, process: subprocess.Popen[str]) -> None:
    """Waits for the first checkpoint: training has begun."""
    began = time.monotonic()
    while not (run / "checkpoints/last.ckpt").is_file():
        assert process.poll() is None, process.communicate()[0][-2000:]
        assert time.monotonic() - began < 120
        time.sleep(0.05)


def load(run: Path) -> int:
    step: int = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    return step


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("options", [[], TWO], ids=["one process", "two processes"])
@pytest.mark.parametrize("attempt", range(TRIES))
def test_a_signal_saves_a_whole_checkpoint_and_ends(
    repository: Path, options: list[str], number: signal.Signals, attempt: int
) -> None:
    """At the first process alone, as `kill` and a cluster send it, or at all of them, as a terminal sends Ctrl-C."""
    generator = random.Random(f"{number} {options} {attempt}")
    process, run = start(repository, *options), Path("logs/sinusoid/maml/version_0")
    try:
        trained(run, process)
        time.sleep(generator.uniform(0, 1.5))
        began = time.monotonic()
        if generator.random() < 0.5:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    print(f"{time.monotonic() - began:.1f} s")
    assert process.returncode == CODES[number], said[-2000:]
    assert f"Stopped by {number.name} after meta-step {load(run)}." in said
    assert not [*run.rglob("*.part")]


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(TRIES))
def test_kill_9_leaves_a_checkpoint_that_loads(repository: Path, attempt: int) -> None:
    process, run = start(repository, "--trainer.val_check_interval=2"), Path("logs/sinusoid/maml/version_0")
    try:
        trained(run, process)
        time.sleep(random.Random(attempt).uniform(0, 1.5))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert load(run) > 0


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(repository: Path) -> None:
    """During a validation that would take minutes, where the first one has to wait."""
    process = start(repository, "--data.val_tasks=4000000", "--trainer.num_sanity_val_steps=0",
                    "--trainer.callbacks=tests.reliability.telling.Telling")  # fmt: skip
    assert process.stdout is not None
    try:
        while "evaluating" not in (line := process.stdout.readline()):
            assert line, "ended before it validated"
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None  # in the middle of a validation
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGINT
