"""The command lines that docs/reliability.md gives for several processes."""

import os
import subprocess
import sys
from pathlib import Path

SHORT = [
    "--trainer.max_steps=3", "--trainer.val_check_interval=3", "--data.val_tasks=2", "--data.meta_batch_size=4",
    "--data.eval_batch_size=2", "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp",
]  # fmt: skip


def test_torchrun_starts_the_command_line_on_two_processes(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "meta_lightning",
         "fit", "--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Run: ") == 1
    assert Path("logs/sinusoid/maml/version_0/checkpoints/last.ckpt").is_file()
    assert not Path("logs/sinusoid/maml/version_1").exists()
