"""The command lines that docs/reliability.md gives for several processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from meta_lightning import ConfigError, MAMLModule
from meta_lightning.cli import main
from meta_lightning.engine import launcher

from ..algorithms.problems import SINUSOIDS

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


def test_processes_of_torchrun_are_one_run_without_a_number_of_devices(repository: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "meta_lightning",
         "fit", "--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Run: ") == 1
    assert not Path("logs/sinusoid/maml/version_1").exists()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the first of two processes, as torchrun makes it."""
    variables = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.devices=3"], "trainer.devices is 3, but torchrun started 2 processes on each node; set it to 2"),
        (["--trainer.devices=[0]"], "trainer.devices is 1, but torchrun started 2 processes on each node; set it to 2"),
        (["--trainer.num_nodes=2"], "trainer.num_nodes is 2, but torchrun started 1 nodes; set it to 1"),
    ],
)
def test_another_number_of_processes_than_the_launcher_started_is_refused(
    repository: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["fit", "--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT, *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("logs").exists()


@pytest.mark.usefixtures("launched")
def test_a_trainer_from_python_is_refused_too() -> None:
    running = Trainer(max_steps=1, max_epochs=-1, devices=1, accelerator="cpu", logger=False)
    with pytest.raises(ConfigError, match=r"trainer\.devices is 1, but torchrun started 2 processes"):
        running.fit(MAMLModule(SINUSOIDS.net()), SINUSOIDS.data())


def test_a_script_of_slurm_outside_of_srun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launcher.launched() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    assert launcher.launched() == launcher.Launch("srun", 4, 2)


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


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the second process in /proc")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_second_signal_ends_a_process_that_waits_for_a_stopped_one(repository: Path, number: int) -> None:
    with Path("said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "meta_lightning", "fit", "--config", str(repository / "configs/sinusoid/maml.yaml"),
             *SHORT, "--trainer.devices=2", "--trainer.max_steps=1000000", "--trainer.val_check_interval=1000000"],
            env={**ENVIRONMENT, "PYTHONPATH": str(repository)}, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
    other: list[int] = []
    try:
        until = time.monotonic() + PATIENCE
        while "train/loss" not in Path("said.txt").read_text() and time.monotonic() < until:
            time.sleep(0.1)
        other = _children(process.pid)
        for child in other:
            os.kill(child, signal.SIGSTOP)
        time.sleep(1)  # the first process now waits in a collective
        process.send_signal(number)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=2.5) == 128 + number
    finally:
        process.kill()
        for child in other:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


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
             "--untrained=true", "--data.test_tasks=10000000", "--trainer.accelerator=cpu",
             "--trainer.callbacks=tests.reliability.telling.Telling"],
            env={**ENVIRONMENT, "PYTHONPATH": str(repository)}, stdout=file, stderr=file,
        )  # fmt: skip
    began = time.monotonic()
    try:
        while "evaluating" not in said.read_text():
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
