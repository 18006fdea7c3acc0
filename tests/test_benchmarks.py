"""The scripts in benchmarks/: what they compare is the same, and what they print follows from what they timed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from benchmarks import growth, peers
from benchmarks.contenders import Contender, ours, plain_loop
from benchmarks.work import WORKS, Work
from meta_lightning.types import Params

SINUSOID = WORKS["sinusoid"]


def printed(table: object) -> str:
    console = Console(width=100, record=True)
    console.print(table)
    return console.export_text()


def doubled(work: Work) -> Contender:
    step = ours(work)

    def wrong() -> Params:
        return {name: 2 * value for name, value in step().items()}

    return wrong


def test_every_way_of_ours_gives_the_gradient_of_a_plain_loop() -> None:
    makers: dict[str, Callable[[Work], Contender]] = {"plain torch loop": plain_loop}
    makers |= {name: options_of(options) for name, options in peers._OURS.items() if not options.get("compile")}
    assert max(peers.check(SINUSOID, makers).values()) < 1e-12


def options_of(options: dict[str, Any]) -> Callable[[Work], Contender]:
    return lambda work: ours(work, **options)


def test_another_gradient_is_not_timed() -> None:
    with pytest.raises(SystemExit, match=r"the meta-gradient of doubled is off by 1\.0e\+00; nothing was timed"):
        peers.check(SINUSOID, {"plain torch loop": plain_loop, "doubled": doubled})


def test_times_are_set_beside_the_fastest_other_library_that_loops() -> None:
    times = {"plain torch loop": 0.001, "higher": 0.03, "torchopt": 0.02, "metalearn: vmap": 0.005, "ours: vmap": 0.004}
    text = printed(peers.table(SINUSOID, times))
    assert "times faster than torchopt" in text
    rows = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in text.splitlines() if line[:1] == "│"}
    assert rows["ours: vmap"] == "5.00"
    assert rows["metalearn: vmap"] == "4.00"
    assert rows["torchopt"] == "1.00"


def test_growth_is_shown_as_a_table_and_a_plot(tmp_path: Path) -> None:
    works = {tasks: SINUSOID._replace(tasks=tasks) for tasks in (1, 2)}
    costs = growth.measure(works, 0.001, "")
    assert all(cost.seconds > 0 and cost.peak > 0 for of in costs.values() for cost in of.values())
    assert costs["vmap"][2].peak > costs["vmap"][1].peak
    assert [*costs] == ["vmap", "loop", "split"]  # what is not more than a chunk is not cut into chunks
    assert f"{1e3 * costs['vmap'][2].seconds:.2g} ms" in printed(growth.table("growth", "tasks", costs))
    growth.plot({"growth": ("tasks", costs)}, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as plot:
        assert plot.size == (320, 540)
