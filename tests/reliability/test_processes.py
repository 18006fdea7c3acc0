"""Two processes do what one does: the same gradients, parameters and validations, on episodes shared out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_lightning.cli import main

from .worker import BY_NAME, COMPARED, EPISODES, EVERY_SEED, SINUSOID, train

EVERY = [*BY_NAME, "maml, 3 steps, frozen part"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """What two processes left, started as on a cluster."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "-m", "tests.reliability.worker", str(folder)],
        cwd=repository, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}, capture_output=True,
        text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def left(two: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(two / f"{name}_{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", EVERY)
def test_parameters_and_validations_are_those_of_one_process(two: Path, name: str) -> None:
    one = train(name, COMPARED)
    for process in left(two, name):
        for key, value in one["end"].items():
            torch.testing.assert_close(process["on_the_way"][key], value, rtol=1e-5, atol=1e-6)
        assert process["values"][0] == pytest.approx(one["values"][0], rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_processes_stay_identical_for_200_meta_steps(two: Path, name: str) -> None:
    first, second = left(two, name)
    assert first["end"].keys() == second["end"].keys()
    assert all(torch.equal(value, second["end"][key]) for key, value in first["end"].items())
    assert first["values"] == second["values"]


@pytest.mark.parametrize("name", EVERY)
def test_every_process_has_episodes_of_its_own(two: Path, name: str) -> None:
    first, second = (process["episodes"] for process in left(two, name))
    assert sorted(first + second) == [*range(200 * 4)]
    assert len(first) == len(second)


@pytest.mark.parametrize("name", EVERY)
def test_a_meta_step_makes_one_collective(two: Path, name: str) -> None:
    for process in left(two, name):
        assert process["collectives"] == [1] * 200


@pytest.mark.parametrize("name", ["maml, 3 steps", "reptile, adam"])
def test_a_signal_at_one_process_stops_both_and_the_run_goes_on_exactly(two: Path, name: str) -> None:
    for process in left(two, f"resumed {name}"):
        assert process["code"] == 143
        assert process["saved"] == 7
        assert all(torch.equal(value, process["end"][key]) for key, value in process["whole"].items())


def test_a_loss_that_is_not_finite_on_one_process_stops_both_and_names_the_task(two: Path) -> None:
    for process in left(two, "diverged"):
        assert process["step"] == 2
        assert process["error"].startswith("meta-step 3: the loss or the meta-gradient is not finite (tasks [11]); the")
        assert all(torch.isfinite(value).all() for value in process["end"].values())


def test_a_full_disk_stops_both_with_the_same_words(two: Path) -> None:
    first, second = (process["error"] for process in left(two, "full"))
    assert first == second
    assert (
        "last.ckpt can't be written (No space left on device); the checkpoint that was there before is unchanged"
        in first
    )


def test_the_report_is_written_once_over_all_tasks(two: Path) -> None:
    (report,) = two.glob("checkpoints/test_report.json")  # where a run without a logger keeps its files
    assert json.loads(report.read_text())["tasks"] == 4


def test_two_processes_test_the_same_tasks_for_each_training_seed(two: Path) -> None:
    runs = Path("logs/sinusoid/maml")
    shutil.copytree(two / runs, runs)
    (runs / "test_seeds.json").unlink()
    assert main(["test", *SINUSOID, EVERY_SEED]) == 0
    for name in ("version_0/test_report.json", "version_1/test_report.json"):
        shared, alone = (json.loads((folder / runs / name).read_text()) for folder in (two, Path()))
        assert shared["episode_hash"] == alone["episode_hash"]
        assert shared["per_task"] == pytest.approx(alone["per_task"], rel=1e-6)
        assert len(set(alone["per_task"])) == 10  # no two are mistaken for each other
    shared, alone = (json.loads((folder / runs / "test_seeds.json").read_text()) for folder in (two, Path()))
    assert [of["seed"] for of in shared["checkpoints"]] == [of["seed"] for of in alone["checkpoints"]] == [0, 1]
    for key in ("mean", "std_over_seeds", "ci95_over_seeds", "ci95_over_tasks"):
        assert shared[key] == pytest.approx(alone[key], rel=1e-5)


def test_episodes_are_written_down_in_the_same_bytes_by_any_process(two: Path) -> None:
    # Other hash seeds, other numbers of threads, other folders.
    assert main([*EPISODES, "--output=here.json"]) == 0
    here = Path("here.json").read_bytes()
    assert len(json.loads(here)["episodes"]) == 50
    assert here == (two / "episodes_0.json").read_bytes() == (two / "episodes_1.json").read_bytes()


def test_the_first_process_draws_and_the_other_does_not_wait_for_it(two: Path) -> None:
    first, second = left(two, "pictures")
    assert (first["images"], second["images"]) == (2 * 3, 0)
    for process in (first, second):
        assert process["with"]["collectives"] == process["without"]["collectives"]
        assert all(torch.equal(value, process["without"]["end"][key]) for key, value in process["with"]["end"].items())
    assert len([*two.glob("with/**/events*")]) == 1
