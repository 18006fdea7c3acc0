"""The command lines that docs/reliability.md gives for several processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHORT = [
    "--trainer.max_steps=3", "--trainer.val_check_interval=3", "--data.val_tasks=2", "--data.meta_batch_size=4",
    "--data.eval_batch_size=2", "--trainer.accelerator=cpu", "--trainer.strategy=ddp",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PATIENCE = 240  # seconds: processes that wait for each other do so for ever, those of a busy machine for a minute


def test_torchrun_starts_the_command_line_on_two_nodes(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    line = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d",
        f"--rdzv_endpoint=localhost:{port}", "-m", "meta_lightning", "fit", "--config",
        str(repository / "configs/sinusoid/maml.yaml"), *SHORT, "--trainer.num_nodes=2", "--trainer.devices=1",
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [node.communicate(timeout=PATIENCE)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "".join(said).count("Run: ") == 1
    assert Path("logs/sinusoid/maml/version_0/checkpoints/last.ckpt").is_file()
    assert not Path("logs/sinusoid/maml/version_1").exists()


# Saves slowly, as to a busy disk, and says when it begins.
SLOW = """
import sys, time
from meta_lightning.callbacks import Checkpoints
from meta_lightning.cli import main
save = Checkpoints.save_now
def slowly(self, trainer):
    if trainer.global_step == 3 and trainer.is_global_zero:
        print("saving", flush=True)
        time.sleep(2)
    save(self, trainer)
Checkpoints.save_now = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_signal_during_the_final_save_leaves_no_process_waiting(repository: Path) -> None:
    Path("slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "slow.py", "fit", "--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT,
         "--trainer.devices=2", "--trainer.val_check_interval=1000"],
        env={**ENVIRONMENT, "PYTHONPATH": str(repository)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while "saving" not in (line := process.stdout.readline()):
            assert line, "ended before it saved"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, said  # the run was complete
    assert Path("logs/sinusoid/maml/version_0/checkpoints/last.ckpt").is_file()


def test_a_signal_outside_of_training_is_no_success(repository: Path) -> None:
    said = Path("said.txt")
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "meta_lightning", "test", "--config", str(repository / "configs/sinusoid/maml.yaml"),
             "--untrained=true", "--data.test_tasks=10000000", "--trainer.accelerator=cpu"],
            env=ENVIRONMENT, stdout=file, stderr=file,
        )  # fmt: skip
    began = time.monotonic()
    try:
        while "Testing DataLoader" not in said.read_text():
            assert time.monotonic() - began < PATIENCE, said.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143


@pytest.fixture(autouse=True)
def _no_leftovers() -> None:
    """Lightning tells its children where they are through the environment; a test must not hand it on."""
    for key in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        assert key not in os.environ
