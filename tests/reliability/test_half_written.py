"""A disk that fills up in the middle of any file that is written, and files that could not be written at all."""

import errno
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_lightning import files
from meta_lightning.callbacks import TestReport
from meta_lightning.cli import main
from meta_lightning.data import cache
from meta_lightning.data.manifest import Manifest, write_manifest
from meta_lightning.errors import ConfigError
from meta_lightning.files import check_writable, save_whole, write_whole
from meta_lightning.reporting.report import files as files_of
from meta_lightning.reporting.seeds import over_seeds, write_seeds
from meta_lightning.runs.changes import keep_config
from meta_lightning.runs.checkpoint import TrainingRecord
from meta_lightning.types import EpisodeShape
from tests.callbacks.test_report_from_python import data, module, trainer
from tests.reporting.test_report import report

FULL = "can't be written (No space left on device); an older file is as it was: make room there or allow writing, or"


class _Filling:
    """A file on a disk that fills up in the middle of a write."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Filling":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> None:
        self._file.write(bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the disk fill up after some more whole files."""

    def fill(after: int = 0) -> None:
        fdopen, written = os.fdopen, []

        def opened(*arguments: Any) -> Any:
            written.append(arguments)
            return fdopen(*arguments) if len(written) <= after else _Filling(fdopen(*arguments))

        monkeypatch.setattr(files.os, "fdopen", opened)

    return fill


def _report() -> None:
    write_whole(files_of(report(), Path()))


def _test() -> None:
    trainer().test(module(), data(), verbose=False)


def _seeds() -> None:
    one = report()
    records = [TrainingRecord(2, seed, {}, {}) for seed in (0, 1)]
    made = [
        type(one)(**{**vars(one), "checkpoint": f"{run}/best.ckpt", "per_task": [0.5, 0.7, 0.9]}) for run in ("a", "b")
    ]
    write_seeds(over_seeds(made, records))


def _manifest() -> None:
    write_manifest(Manifest("letters", "test", 0, EpisodeShape(5, 1, 1), [["a", "b"]]), Path("episodes.json"))


def _config() -> None:
    for _ in range(2):
        keep_config(Path(), f"seed_everything: {time.perf_counter_ns()}\n")


WRITERS = {
    "test_report.json": _report, "model_card.md": _test, "test_seeds.json": _seeds, "episodes.json": _manifest,
    "config_changes.yaml": _config,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_written_whole_or_stays_as_it_was(name: str, fill: Callable[[int], None]) -> None:
    WRITERS[name]()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert name in {path.name for path in before}
    for whole in range({"model_card.md": 3, "config_changes.yaml": 1, "episodes.json": 1}.get(name, 2)):
        fill(whole)
        with pytest.raises(ConfigError) as caught:
            WRITERS[name]()
        assert FULL in str(caught.value)
        assert str(caught.value).partition(" ")[0] in {str(path) for path in before}
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_checkpoint_and_a_cache_stay_as_they_were(
    fill: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_whole([1], Path("last.ckpt"))
    monkeypatch.setattr(cache, "user_cache_path", lambda _: Path())
    fill(0)
    with pytest.raises(OSError, match="No space left"):
        save_whole([2], Path("last.ckpt"))
    assert torch.load("last.ckpt") == [1]
    assert cache.cached("letters", lambda: [3]) == [3]
    assert re.search(r"nothing is cached.*No space left on device", capsys.readouterr().out)
    assert [path.name for path in Path().iterdir()] == ["last.ckpt"]


def test_a_long_name_has_a_short_temporary_file() -> None:
    path = Path("é" * 120 + ".json")
    write_whole({path: "{}"})
    assert json.loads(path.read_text()) == {}


@pytest.mark.parametrize("name", ["x" * 300, "x" * 251])
def test_a_name_that_is_too_long_is_found_before_the_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TestReport, "on_test_batch_start", lambda *_, **__: pytest.fail("tested"))
    one = trainer()
    one.callbacks[:] = [TestReport(name=name)]
    with pytest.raises(ConfigError, match=rf"{name}\.json can't be written \(File name too long\)"):
        one.test(module(), data(), verbose=False)


def test_a_folder_that_can_not_be_written_is_found_before_the_test(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.val_tasks=2", "--data.test_tasks=3"]
    config = ["--config", str(repository / "configs/sinusoid/maml.yaml"), "--trainer.accelerator=cpu", *options]
    for seed in (0, 1):
        assert main(["fit", *config, f"--seed_everything={seed}", "--figures.every_n_validations=0"]) == 0
    runs = Path("logs/sinusoid/maml")
    temporary = files.tempfile.TemporaryFile
    read_only = [runs / "version_1"]

    def refused(dir: Path) -> Any:
        if any(dir.samefile(folder) for folder in read_only):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return temporary(dir=dir)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(TestReport, "on_test_batch_start", lambda *_, **__: pytest.fail("tested"))
    for file in (runs / "version_1/test_report.json", runs / "test_seeds.json"):
        assert main(["test", *config, f"--ckpt_path={runs}/version_*/checkpoints/best.ckpt"]) == 2
        assert f"error: {file} can't be written (Read-only file system)" in capsys.readouterr().err
        read_only[:] = [runs]


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="permissions do not bind the superuser")
def test_a_folder_without_the_permission_is_told() -> None:
    Path("closed").mkdir(mode=0o555)
    with pytest.raises(ConfigError, match=r"closed/a\.json can't be written \(Permission denied\)"):
        check_writable([Path("closed/a.json")])


def test_nothing_is_made_by_the_check() -> None:
    check_writable([Path("new/folder/a.json")])
    Path("folder.json").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.json can't be written \(Is a directory\)"):
        check_writable([Path("folder.json")])
    assert [path.name for path in Path().iterdir()] == ["folder.json"]
    Path("file").write_text("x")
    with pytest.raises(ConfigError, match=r"file/a\.json can't be written \(Not a directory\)"):
        check_writable([Path("file/a.json")])
