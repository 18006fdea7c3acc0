"""Lightning's own early stopping, as a shipped config has it: a run that ends by itself is a whole run."""

from pathlib import Path

import pytest
import torch

from meta_lightning.cli import main

RUN = Path("logs/glyphs_5w1s/protonet/version_0")
SHORT = [
    "--trainer.max_steps=10", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu", "--data.val_tasks=4",
    "--data.train_ways=3", "--data.meta_batch_size=1", "--data.test_tasks=4", "--model.net.width=2",
    "--trainer.enable_progress_bar=false", "--figures.every_n_validations=0",
]  # fmt: skip


def last() -> dict:
    return torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)


def test_a_run_that_stops_early_is_saved_and_goes_on(
    repository: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No figure is a whole point better than the first, so that the third validation after it ends training."""
    shipped = (repository / "configs/glyphs_5w1s/protonet.yaml").read_text()
    assert "patience: 5" in shipped
    Path("stops.yaml").write_text(shipped.replace("patience: 5", "patience: 3, min_delta: 1.0"))
    config = ["--config", "stops.yaml", *SHORT]
    assert main(["fit", *config]) == 0
    assert f"Run: {RUN}" in capsys.readouterr().out
    assert "val/accuracy did not improve in the last 3 records" in caplog.text
    assert last()["global_step"] == 8
    assert main(["fit", *config, "--ckpt_path=last"]) == 0  # it goes on to the next validation, and ends there
    assert last()["global_step"] == 10
    resumed = last()["state_dict"]
    Path("whole.yaml").write_text(shipped.replace("name: glyphs_5w1s/protonet", "name: whole"))
    assert main(["fit", "--config", "whole.yaml", *SHORT, "--trainer.callbacks=null"]) == 0
    whole = torch.load("logs/whole/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
