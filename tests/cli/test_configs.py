"""Every shipped config fits and tests: a config that rots breaks the build the same day."""

import json
from pathlib import Path

import pytest

from meta_lightning.cli import main

from ..own_data import data_options, write_own_data

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))

SHORT = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu", "--data.val_tasks=2",
    "--data.test_tasks=2", "--data.meta_batch_size=1", "--data.eval_batch_size=2", "--trainer.num_sanity_val_steps=0",
]  # fmt: skip


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 19


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_fits_and_tests(config: Path, roots: dict[str, Path]) -> None:
    arguments = ["--config", str(config), *SHORT, *data_options(config, roots)]
    write_own_data()
    assert main(["fit", *arguments]) == 0
    given = ["--report.all_batch_norms=false", "--report.baselines=false"]  # the others have tests of their own
    assert main(["test", *arguments, *given, "--ckpt_path=best"]) == 0
    run = Path("logs", config.parent.name, config.stem, "version_0")
    report = json.loads((run / "test_report.json").read_text())
    assert report["benchmark"] == config.parent.name
    assert report["tasks"] == 2


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_opens_with_its_paper_and_the_published_figure(config: Path) -> None:
    comment = " ".join(line for line in config.read_text().splitlines()[:4] if line.startswith("#"))
    assert "arXiv" in comment
    assert "Published" in comment
