"""What killed processes leave is cleaned, and what takes long is made by one process at a time."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from meta_lightning import files
from meta_lightning.data import EpisodicDataModule, Sinusoid
from meta_lightning.files import one_at_a_time, remove_parts, save_whole

fcntl = pytest.importorskip("fcntl")

OLD = time.time() - 3600


def leave(name: str, age: float = OLD) -> Path:
    Path(name).write_bytes(b"half of a checkpoint")
    os.utime(name, (age, age))
    return Path(name)


def test_what_a_killed_save_left_is_removed_and_nothing_else() -> None:
    left = [leave(".last-abc123.part"), leave(".best-abc123.part")]
    others = [leave("last.ckpt"), leave("theirs.part"), leave(".last-new.part", time.time())]
    remove_parts(Path.cwd())
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)
    remove_parts(Path("nowhere"))


def test_what_another_process_is_writing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that takes an hour: its lock protects it, whatever its age."""
    save = torch.save

    def hesitate(value: object, buffer: object) -> None:
        (part,) = Path.cwd().glob(".*.part")
        os.utime(part, (OLD, OLD))
        remove_parts(Path.cwd())
        save(value, buffer)

    monkeypatch.setattr(torch, "save", hesitate)
    save_whole([1], Path("last.ckpt"))
    assert torch.load("last.ckpt") == [1]
    assert [path.name for path in Path.cwd().iterdir()] == ["last.ckpt"]


def test_one_process_at_a_time_and_the_next_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(Path.cwd()))
    entered, leave_now, done = threading.Event(), threading.Event(), []

    def first() -> None:
        with one_at_a_time("things"):
            entered.set()
            leave_now.wait(10)
            done.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    (lock,) = Path.cwd().glob("*-things.lock")
    with lock.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with one_at_a_time("other things"):  # by somebody else
        leave_now.set()
    with one_at_a_time("things"):
        done.append("second")
    thread.join()
    assert done == ["first", "second"]


def test_without_a_folder_for_locks_everybody_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: "nowhere")
    entered = False
    with one_at_a_time("things"):
        entered = True
    assert entered
    with pytest.raises(OSError, match="their own"), one_at_a_time("things"):
        raise OSError("their own")


def test_data_are_prepared_by_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(Path.cwd()))
    locked = []

    class Watched(Sinusoid):
        def prepare(self) -> None:
            (lock,) = Path.cwd().glob("*-Watched.lock")
            with lock.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked.append(lock)

    EpisodicDataModule(Watched()).prepare_data()
    assert locked


def test_who_waits_for_a_lock_says_so_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(Path.cwd()))
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    with one_at_a_time("things"):  # not for long
        pass
    (lock,) = Path.cwd().glob("*-things.lock")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.4, lambda: fcntl.flock(held, fcntl.LOCK_UN)).start()
        assert capsys.readouterr().out == ""
        with one_at_a_time("things"):
            assert capsys.readouterr().out == f"Waiting for another process, which has locked {lock}\n"
