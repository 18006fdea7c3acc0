"""What took long to make is made once, and a cache that fails costs time and nothing else."""

import io
import re

import pytest
import torch

from meta_lightning.data.cache import _head, cached

VALUE = {"images": torch.arange(12, dtype=torch.uint8).view(3, 4), "names": ["a", "b"], "scale": 0.5}


@pytest.fixture
def make():
    """Makes the value, and counts how often in ``make.calls``."""

    def make():
        make.calls += 1
        return VALUE

    make.calls = 0
    return make


def same(value):
    return torch.equal(value["images"], VALUE["images"]) and value["names"] == VALUE["names"] and value["scale"] == 0.5


def test_the_second_time_nothing_is_made(cache_folder, make):
    assert same(cached("thing", make))
    assert same(cached("thing", make))
    assert make.calls == 1
    assert [path.name for path in cache_folder.iterdir()] == ["thing.cache"]


def test_another_name_is_another_thing(cache_folder, make):
    cached("thing", make)
    cached("other", make)
    assert make.calls == 2


def flipped(whole):
    """One bit of one picture, which torch does not notice."""
    at = whole.index(bytes(range(12)))
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


def other_structure(_):
    torch.save({"pictures": [1]}, file := io.BytesIO())
    return file.getvalue()


MADE_AGAIN = (
    r"Warning: .*thing\.cache can't be used \(its bytes do not match its checksum\); its content is made again\n"
)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"", lambda _: b"garbage", lambda whole: whole[:-100], lambda whole: whole[: len(whole) // 2],
        flipped, other_structure, lambda whole: whole + b"more",
    ],
    ids=["empty", "garbage", "cut short", "half", "a bit", "other structure", "longer"],
)  # fmt: skip
def test_a_corrupt_file_is_made_anew(cache_folder, make, damage, capsys):
    cached("thing", make)
    path = cache_folder / "thing.cache"
    path.write_bytes(damage(path.read_bytes()))
    assert same(cached("thing", make))
    assert re.fullmatch(MADE_AGAIN, capsys.readouterr().out)
    assert make.calls == 2
    assert same(cached("thing", make))  # mended: no warning, and nothing made
    assert make.calls == 2
    assert capsys.readouterr().out == ""


def test_a_file_under_another_name_is_made_anew(cache_folder, make, capsys):
    cached("other", lambda: {"images": 3})
    (cache_folder / "other.cache").rename(cache_folder / "thing.cache")
    assert same(cached("thing", make))
    assert re.fullmatch(MADE_AGAIN, capsys.readouterr().out)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code from a cached file was run",)


def test_a_file_that_holds_code_is_not_run(cache_folder, make, capsys):
    cache_folder.mkdir(parents=True)
    torch.save(Trap(), file := io.BytesIO())
    (cache_folder / "thing.cache").write_bytes(_head("thing", file.getvalue()) + file.getvalue())
    assert same(cached("thing", make))
    assert "thing.cache can't be used (UnpicklingError); its content is made again" in capsys.readouterr().out


@pytest.mark.parametrize("blocked", ["cache", "cache/meta_lightning"])
def test_with_an_unwritable_folder_a_process_makes_a_value_once(tmp_path, cache_folder, make, blocked, capsys):
    # A file in the folder's place: no user, not even root, can write below it.
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    for _ in range(4):
        assert same(cached("thing", make))
    assert make.calls == 1
    line = r"Warning: nothing is cached, because .*thing\.cache can't be written \(.+\)\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def files(folder):
    return [*folder.iterdir()] if folder.exists() else []


def test_an_error_while_making_leaves_nothing(cache_folder):
    def fail():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        cached("thing", fail)
    assert not files(cache_folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_save_leaves_nothing(cache_folder, make, monkeypatch, error):
    def write_half(value, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(error):
        cached("thing", make)
    assert cache_folder.is_dir()
    assert not files(cache_folder)


def test_a_full_disk_leaves_nothing_and_costs_a_warning(cache_folder, make, monkeypatch, capsys):
    def write_half(value, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", write_half)
    assert same(cached("thing", make))
    assert "can't be written (No space left on device)" in capsys.readouterr().out
    assert not files(cache_folder)


def test_a_reader_never_sees_half_a_file(cache_folder, make, monkeypatch):
    seen, save = [], torch.save

    def save_and_look(value, file):
        save(value, file)
        seen.append((cache_folder / "thing.cache").exists())

    monkeypatch.setattr(torch, "save", save_and_look)
    cached("thing", make)
    assert seen == [False]
    assert (cache_folder / "thing.cache").exists()
