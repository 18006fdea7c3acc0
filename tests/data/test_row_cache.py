"""Large tables are cached in files that are mapped into memory: made once, checked, and made again if damaged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_lightning.data import row_cache
from meta_lightning.data.row_cache import cached_rows

DATA = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
NOTES = ["a", "b", "ü\udc80", "", "e"]


@pytest.fixture
def make():
    """Makes five rows in parts, and counts how often in ``make.calls``."""

    def make():
        make.calls += 1
        yield DATA[:2], NOTES[:2]
        yield DATA[2:], NOTES[2:]

    make.calls = 0
    return make


def get(make, name="one", place="place"):
    rows = cached_rows(place, name, (3, 4), make)
    assert torch.equal(rows.data, torch.from_numpy(DATA))
    assert rows.notes == NOTES


def test_the_second_time_nothing_is_made(cache_folder, make):
    get(make)
    get(make)
    assert make.calls == 1
    assert [path.name for path in cache_folder.iterdir()] == ["place-one.rows"]


def test_rows_of_the_same_place_replace_each_other(cache_folder, make):
    get(make)
    get(make, place="elsewhere")
    get(make, name="two")
    assert sorted(path.name for path in cache_folder.iterdir()) == ["elsewhere-one.rows", "place-two.rows"]
    assert make.calls == 3


def bit(whole):
    return whole[:20] + bytes([whole[20] ^ 1]) + whole[21:]


def length(whole):
    return whole[:-64] + b"\x3b" + whole[-63:]


@pytest.mark.parametrize("damage", [
    lambda _: b"", lambda _: b"garbage" * 20, lambda whole: whole[:-1], lambda whole: whole[: len(whole) // 2],
    lambda whole: b"x" + whole, bit, length, lambda whole: whole[:-1] + b"2",
])  # fmt: skip
def test_a_damaged_file_is_made_again(cache_folder, make, damage, capsys):
    get(make)
    path = cache_folder / "place-one.rows"
    path.write_bytes(damage(path.read_bytes()))
    get(make)
    said = capsys.readouterr().out
    assert re.fullmatch(r"Warning: .*place-one\.rows can't be used \(.+\); its content is made again\n", said)
    get(make)
    assert make.calls == 2


def test_a_file_under_another_name_is_made_again(cache_folder, make, capsys):
    get(make)
    (cache_folder / "place-one.rows").rename(cache_folder / "place-two.rows")
    get(make, "two")
    assert "can't be used (its bytes do not match its checksum)" in capsys.readouterr().out
    assert make.calls == 2


@pytest.mark.parametrize("blocked", ["cache", "cache/meta_lightning"])
def test_without_a_cache_the_rows_are_kept_in_memory(tmp_path, cache_folder, make, blocked, capsys):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    for _ in range(3):
        get(make)
    assert make.calls == 1
    line = r"Warning: nothing is cached, because .*place-one\.rows can't be written \(.+\)\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def test_a_disk_that_is_full_costs_a_warning(cache_folder, repository):
    pytest.importorskip("resource")
    code = """
import resource, numpy
from meta_lightning.data.row_cache import cached_rows
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
parts = lambda: ((numpy.full((100, 100), number, numpy.uint8), ["x"] * 100) for number in range(9))
assert cached_rows("place", "one", (100,), parts).data[:, 0].unique().tolist() == [*range(9)]
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "nothing is cached" in ran.stdout
    assert not [*cache_folder.iterdir()]


def test_an_error_while_making_leaves_nothing(cache_folder):
    def fail():
        yield DATA[:2], NOTES[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(fail)
    assert not [*cache_folder.iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_are_mapped_and_not_in_the_memory_of_the_process(cache_folder):
    def private():
        """The bytes of this process that no other process can share."""
        with Path("/proc/self/smaps_rollup").open() as file:
            sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in [*file][1:]}
        return sizes["Private_Dirty:"]

    size, part = 64 << 20, np.ones((1 << 10, 1 << 10), np.uint8)
    cached_rows("place", "big", (1 << 10,), lambda: ((part, ["x"] * len(part)) for _ in range(64)))
    before = private()
    rows = cached_rows("place", "big", (1 << 10,), row_cache.Rows)  # is not made
    assert int(rows.data.sum(dtype=torch.int64)) == rows.data.numel() == size
    assert private() - before < size / 4
    rows.data[0, 0] = 2  # a copy of its own page
    assert cached_rows("place", "big", (1 << 10,), row_cache.Rows).data[0, 0] == 1
