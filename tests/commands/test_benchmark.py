import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from meta_lightning import EpisodicDataModule, MAMLModule
from meta_lightning.cli import main
from meta_lightning.commands.benchmark import run_benchmark, settings
from meta_lightning.data.sources import LabelledImages
from meta_lightning.functional.tasks import Backend

from ..algorithms.problems import FACES
from ..algorithms.test_conformance import trainer

SMALL = ["--data.meta_batch_size=4", "--seconds=0.05", "--trainer.accelerator=cpu"]


class Branches(nn.Module):
    """Does something else for large inputs: no batching rule."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else self.linear(-x)


def run(repository: Path, config: str, *options: str) -> int:
    return main(["benchmark", "--config", str(repository / "configs" / config), *SMALL, *options])


def pasted(said: str) -> dict[str, object]:
    block = said[said.index("model:") :].split("\nCompil")[0]
    return yaml.safe_load(block)["model"]["init_args"]


def test_the_fastest_setting_is_named_in_lines_to_paste(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(repository, "sinusoid/maml.yaml") == 0
    said = capsys.readouterr().out
    rows = re.findall(r"│ (\w+) +│ +(\d*) │ +(\w*) │ +([\d.]+) │ +([\d,]+) │ +([\d.,]+) │ +(\d+)% │", said)
    assert {(row[0], row[1]) for row in rows} == {("vmap", ""), ("vmap", "2"), ("loop", ""), ("split", "")}
    times = [float(row[3]) for row in rows]
    assert times == sorted(times)
    fastest = pasted(said)
    assert fastest["task_loop"] == rows[0][0]
    assert fastest["task_chunk"] == (int(rows[0][1]) if rows[0][1] else None)
    assert fastest["compile"] is False
    for row in rows:
        assert float(row[4].replace(",", "")) == pytest.approx(4 / (float(row[3]) * 1e-3), rel=0.1)
    assert "Compiled settings were not timed: add --compile true" in said
    assert re.search(r"`fit` adds \d+\.\d\d ms to each: \d+\.\d\d ms draw the\s+tasks", said)
    assert not [*Path().iterdir()]  # no run is made


def test_what_fails_is_shown_and_the_rest_is_timed(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    assert run(repository, "sinusoid/maml.yaml", "--model.net=tests.commands.test_benchmark.Branches") == 0
    said = capsys.readouterr().out
    assert pasted(said)["task_loop"] == "loop"
    assert re.search(r"│ vmap +│ +│ +│ +fails │", said)


def test_compiled_settings_say_when_they_pay_off(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    # Traced but not compiled; and by the clock a thousand times as fast as anything else.
    monkeypatch.setattr("meta_lightning.commands.benchmark.COMPILER", "eager")
    monkeypatch.setattr(
        "meta_lightning.commands.benchmark.interleaved",
        lambda steps, *_: {step: 1e-6 if getattr(step, "compile", False) else 1e-3 for step in steps},
    )
    assert run(repository, "sinusoid/maml.yaml", "--compile=true") == 0
    said = capsys.readouterr().out
    assert pasted(said)["compile"] is True
    assert re.search(r"Compiling takes \d+ s and pays off after [\d,]+ meta-steps\.", said)


def test_a_meta_step_may_outlast_the_time(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    training_step = MAMLModule.training_step
    monkeypatch.setattr(MAMLModule, "training_step", lambda *args: (taken.append(1), training_step(*args))[1])
    assert run(repository, "sinusoid/maml.yaml", "--seconds=0.0001") == 0
    assert pasted(capsys.readouterr().out)["compile"] is False
    assert len(taken) == 3  # of the run that is timed, the fewest that have a median


def test_what_was_pasted_is_measured_again(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiles(*_: object) -> None:
        raise AssertionError("compiled within the run that is timed")

    monkeypatch.setattr("meta_lightning.algorithms.base.compiled", compiles)
    assert run(repository, "sinusoid/maml.yaml", "--model.compile=true") == 0


def test_pictures_are_cut_where_they_are_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(LabelledImages, "to", lambda self, device: kept.append(device))
    data = EpisodicDataModule(FACES.source, ways=3, shots=2, queries=2, meta_batch_size=2, device_cache=True)
    run_benchmark(trainer(1), MAMLModule(FACES.net()), data, compile=False, seconds=0.001)
    assert kept == [torch.device("cpu")] * 2  # to time the drawing, and in the run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds=0"], r"--seconds is 0\.0; expected more than 0"),
        (["--trainer.devices=2", "--data.meta_batch_size=4"], r"trainer\.devices asks for 2 processes"),
        (["--model.net.in_features=2"], r"model\.net takes no inputs of shape"),
        (["--split=val"], "split"),
    ],
)
def test_bad_input_ends_in_a_line(
    repository: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(repository, "sinusoid/maml.yaml", *options) == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert "Traceback" not in said


def test_settings_fit_the_meta_batch_and_the_method() -> None:
    tried = settings(9, inner_loop=False, compile=False)
    assert [one.backend for one in tried] == [
        Backend("vmap"), Backend("vmap", 8), Backend("vmap", 4), Backend("vmap", 2), Backend("loop")
    ]  # fmt: skip
    assert {one.backend.loop for one in settings(9, inner_loop=True, compile=True) if one.compile} == {"vmap", "loop"}
    assert [one.backend for one in settings(1, inner_loop=False, compile=False)] == [Backend("vmap"), Backend("loop")]
