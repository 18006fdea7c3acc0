"""Trained on one source, tested on another: with other ways and shots where the method has no fixed head."""

import json
from pathlib import Path

import pytest

from meta_lightning.cli import main

SHORT = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.val_tasks=2", "--data.test_tasks=4",
    "--data.meta_batch_size=2", "--data.train_queries=2", "--data.queries=2", "--model.net.width=4",
    "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
]  # fmt: skip


def glyphs(repository: Path, algorithm: str) -> list[str]:
    return ["--config", str(repository / f"configs/glyphs_5w1s/{algorithm}.yaml"), *SHORT]


def on_omniglot(root: Path) -> list[str]:
    return ["--data.source=Omniglot", f"--data.source.root={root}", "--data.source.download=false"]


def test_prototypes_take_other_data_other_ways_and_other_shots(
    repository: Path, omniglot_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = glyphs(repository, "protonet")
    assert main(["fit", *config, "--data.train_ways=6"]) == 0
    other = [*on_omniglot(omniglot_root), "--data.ways=10", "--data.shots=3"]
    assert main(["test", *config, "--ckpt_path=last", *other]) == 0
    run = Path("logs/glyphs_5w1s/protonet/version_0")
    report = json.loads((run / "test_report.json").read_text())
    assert (report["ways"], report["shots"], report["tasks"]) == (10, 3, 4)
    assert report["source"].startswith("omniglot ")
    assert report["trained_on"].startswith("glyphs ")
    assert report["baselines"]["chance"]["mean"] == 0.1
    said = " ".join(capsys.readouterr().out.split())
    assert "Note: data.source is omniglot" in said
    assert "ProtoNet of glyphs_5w1s, tested on omniglot" in said
    card = (run / "model_card.md").read_text()
    assert "# ProtoNet of glyphs_5w1s, tested on omniglot\n" in card


def test_a_fixed_head_says_so_and_takes_other_data_at_its_own_ways(
    repository: Path, omniglot_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = glyphs(repository, "maml")
    assert main(["fit", *config]) == 0
    other = ["test", *config, "--ckpt_path=last", *on_omniglot(omniglot_root)]
    capsys.readouterr()
    assert main([*other, "--data.ways=10"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: data.ways is 10, but the net's head in logs/glyphs_5w1s/maml/version_0/checkpoints/last.ckpt was "
        "trained for 5 ways: set it to 5; only methods that build the classifier from the support set (ProtoNetModule) "
        "can be tested at other ways"
    )
    assert main([*other, "--data.shots=3", "--report.all_batch_norms=false", "--report.baselines=false"]) == 0
    report = json.loads(Path("logs/glyphs_5w1s/maml/version_0/test_report.json").read_text())
    assert (report["ways"], report["shots"]) == (5, 3)
