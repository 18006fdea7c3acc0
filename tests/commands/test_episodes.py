import json
from pathlib import Path

import pytest

from meta_lightning.cli import main
from meta_lightning.data.manifest import Manifest, write_manifest
from meta_lightning.types import EpisodeShape

SHORT = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.val_tasks=2", "--data.test_tasks=12",
    "--data.meta_batch_size=2", "--data.eval_batch_size=4", "--trainer.accelerator=cpu",
]  # fmt: skip
QUICK = ["--report.all_batch_norms=false", "--report.baselines=false"]


@pytest.fixture(params=["glyphs_5w1s/maml", "sinusoid/maml"])
def config(repository: Path, request: pytest.FixtureRequest) -> list[str]:
    options = ["--model.net.width=4"] if "glyphs" in request.param else []
    return ["--config", str(repository / f"configs/{request.param}.yaml"), *SHORT, *options]


def report() -> dict:
    (path,) = Path("logs").rglob("version_0/test_report.json")
    return json.loads(path.read_text())


def test_episodes_are_written_down_and_replayed(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", *config, "--split=test", "--output=there/x.json"]) == 0
    manifest = json.loads(Path("there/x.json").read_text())
    assert len(manifest["episodes"]) == 12
    assert f"12 test episodes with hash {manifest['episode_hash']}: there/x.json" in capsys.readouterr().out
    assert not Path("logs").exists()

    assert main(["fit", *config]) == 0
    assert main(["test", *config, *QUICK, "--ckpt_path=last"]) == 0
    drawn = report()
    assert drawn["episode_hash"] == manifest["episode_hash"]
    # Another seed would draw others; what is written down is replayed all the same.
    assert (
        main(["test", *config, *QUICK, "--ckpt_path=last", "--data.eval_seed=9", "--data.episodes=there/x.json"]) == 0
    )
    replayed = report()
    assert replayed["episode_hash"] == manifest["episode_hash"]
    assert replayed["per_task"] == pytest.approx(drawn["per_task"], rel=1e-4)
    assert main(["test", *config, *QUICK, "--ckpt_path=last", "--data.eval_seed=9"]) == 0
    assert report()["episode_hash"] != manifest["episode_hash"]


def test_the_bytes_are_the_same_every_time(config: list[str]) -> None:
    for name in ("one.json", "other.json"):
        assert main(["episodes", *config, "--split=val", f"--output={name}"]) == 0
    assert Path("one.json").read_bytes() == Path("other.json").read_bytes()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_what_can_not_be_replayed_is_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sinusoid = ["--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT]
    glyphs = ["--config", str(repository / "configs/glyphs_5w1s/maml.yaml"), *SHORT]
    assert main(["episodes", *glyphs, "--output=x.json"]) == 0
    test = ["test", *glyphs, "--untrained=true", "--data.episodes=x.json"]
    assert "the manifest has shape EpisodeShape(ways=5, shots=1, queries=15)" in refused(
        [*test, "--data.shots=2"], capsys
    )
    assert (
        "data.test_tasks is 13, but the manifest of data.episodes holds 12; lower data.test_tasks or write"
        in refused([*test, "--data.test_tasks=13"], capsys)
    )
    other = ["test", *sinusoid, "--untrained=true", "--data.episodes=x.json"]
    assert "the manifest has source glyphs" in refused(other, capsys)
    text = Path("x.json").read_text()
    Path("x.json").write_text(text.replace("ARMENIAN", "LATIN", 1))
    assert "they were changed; write the file again" in refused(test, capsys)
    nested, digits = "[" * 100_000, '{"source": ' + "9" * 5000 + "}"
    seeds = [text.replace('"seed":0', f'"seed":{seed}') for seed in ("-1", "1e99", '"x"', str(2**64))]
    for content in (*seeds, "{", "[]", "3", '{"source": 1}', text[: len(text) // 2], "\0", nested, digits):
        Path("x.json").write_text(content)
        assert "expected a file that the command `episodes` wrote" in refused(test, capsys)
    Path("x.json").write_bytes(b"\xff\xfe")
    assert "expected a file that the command `episodes` wrote" in refused(test, capsys)
    assert "data.episodes: nowhere.json can't be read" in refused([*test[:-1], "--data.episodes=nowhere.json"], capsys)
    for split, shape, message in (
        ("tset", [5, 1, 15], "data.episodes: x.json has split 'tset'; expected val or test: write the file again"),
        ("test", [5, 1, 1e400], "data.episodes: the manifest has shape EpisodeShape(ways=5, shots=1, queries=inf)"),
        ("test", [5, 1, 15], "data.test_tasks is 12, but the manifest of data.episodes holds 0; lower data.test_tasks"),
    ):
        source = json.loads(text)["source"]
        write_manifest(Manifest(source, split, 0, EpisodeShape(*shape), []), Path("x.json"))
        assert f"error: {message}" in refused(test, capsys)
    assert "error: data.test_tasks is 0; expected 1 or more" in refused(
        ["episodes", *glyphs, "--data.test_tasks=0"], capsys
    )
    assert refused(["episodes", *glyphs, "--split=train"], capsys).startswith("error: split is train; expected")
    assert not Path("logs").exists()


def test_a_manifest_of_the_other_split_is_not_taken_for_this_one(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(repository / "configs/sinusoid/maml.yaml"), *SHORT]
    assert main(["episodes", *config, "--split=val", "--output=x.json"]) == 0
    assert main(["test", *config, "--untrained=true", "--data.episodes=x.json"]) == 0
    note = "Note: data.episodes holds val episodes; test draws other episodes from data.eval_seed"
    assert note in capsys.readouterr().out
    assert main(["validate", *config, "--untrained=true", "--data.episodes=x.json"]) == 0
    assert "Note:" not in capsys.readouterr().out
