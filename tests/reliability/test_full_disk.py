"""A disk that fills up while a checkpoint is saved."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meta_lightning.cli import main
from meta_lightning.cli.parser_errors import explain_system_error

SHORT = [
    "--trainer.val_check_interval=2",
    "--data.val_tasks=2",
    "--data.eval_batch_size=2",
    "--data.meta_batch_size=2",
    "--figures.every_n_validations=0",
]

# In a process of its own: the limit holds for every file, the test run's own log too.
PROGRAM = """
import resource, signal, sys
from meta_lightning.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead, as a full disk gives
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(sys.argv[1:]))
"""


def test_it_costs_one_clear_line_and_the_former_checkpoint_stays(repository: Path) -> None:
    pytest.importorskip("resource")
    config = ["fit", "--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT, "--trainer.accelerator=cpu"]
    assert main([*config, "--trainer.max_steps=2"]) == 0
    checkpoints = Path("logs/sinusoid/maml/version_0/checkpoints")
    before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *config, "--trainer.max_steps=4", "--ckpt_path=last"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "ckpt can't be written (File too large); the checkpoint that was there before is unchanged: free" in line
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == before


def test_a_log_that_can_not_be_written_is_told_in_a_line() -> None:
    """As TensorBoard's writer raises it, from another thread and without a file's name."""
    complaint = explain_system_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert complaint == (
        "a log can't be written (No space left on device): free some space and resume with --ckpt_path last"
    )
