"""Times one meta-step of second-order MAML in this library and in others, in one process and in turns.

Before the timing, the meta-gradient of every contender is compared with that of a plain loop in double precision.

    pip install -c constraints.txt -e ".[test,benchmarks]"
    python -m benchmarks.peers --learn2learn FOLDER_WITH_ITS_SOURCE
"""

import argparse
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import contenders
from benchmarks.contenders import Contender
from benchmarks.work import WORKS, Work
from meta_lightning.profiling.timing import interleaved
from meta_lightning.types import Params

# The settings of this library, by name.
_OURS: dict[str, dict[str, Any]] = {
    "ours: vmap": {},
    "ours: loop": {"loop": "loop"},
    "ours: split": {"loop": "split"},
    "ours: vmap, compiled": {"compile": True},
    "ours: vmap, chunks of 4, compiled": {"chunk": 4, "compile": True},
    "ours: loop, compiled": {"loop": "loop", "compile": True},
}
# Further settings on a GPU: chunks of tasks, and bfloat16. Autocast leaves double precision alone, so `check` does not
# test the rounding of bfloat16.
_ON_A_GPU: dict[str, dict[str, Any]] = {
    **{f"ours: vmap, chunks of {chunk}": {"chunk": chunk} for chunk in (4, 8, 16)},
    "ours: vmap, bf16": {"bf16": True},
    "ours: vmap, bf16, compiled": {"bf16": True, "compile": True},
}
# The largest distance of a meta-gradient in double precision from the plain loop's, relative to its norm. It is above
# double precision because parallel-metalearn holds its inner rate in single precision.
_TOLERANCE = 1e-7


def _makers(learn2learn: Path | None, *, compile: bool, gpu: bool) -> dict[str, Callable[[Work], Contender]]:
    """The constructors of all contenders by name, the other libraries first."""
    makers: dict[str, Callable[[Work], Contender]] = {
        "plain torch loop": contenders.plain_loop,
        "higher": contenders.higher,
        "torchopt": contenders.torchopt,
        "parallel-metalearn: sequential": partial(contenders.parallel_metalearn, backend="sequential"),
        "parallel-metalearn: vmap": partial(contenders.parallel_metalearn, backend="vmap"),
    }
    if learn2learn is not None:
        makers["learn2learn"] = partial(contenders.learn2learn, folder=learn2learn)
    settings = _OURS | (_ON_A_GPU if gpu else {})
    ours = {name: options for name, options in settings.items() if compile or not options.get("compile")}
    return makers | {name: partial(contenders.ours, **options) for name, options in ours.items()}


def distance(actual: Params, expected: Params) -> float:
    """The norm of the difference of two gradients, relative to the norm of ``expected``."""
    squares = [((actual[name] - value).square().sum(), value.square().sum()) for name, value in expected.items()]
    difference, norm = (torch.stack(column).sum().sqrt() for column in zip(*squares, strict=True))
    return float(difference / norm)


def check(work: Work, makers: dict[str, Callable[[Work], Contender]]) -> dict[str, float]:
    """Compares meta-gradients with the plain loop's, on four tasks in double precision.

    Returns:
        The relative distance of each contender's meta-gradient, by name.

    Raises:
        SystemExit: If a contender disagrees, because its time would be that of another computation.
    """
    small = work._replace(tasks=4, dtype=torch.float64)
    expected = {name: value.clone() for name, value in makers["plain torch loop"](small)().items()}
    distances = {name: distance(make(small)(), expected) for name, make in makers.items()}
    for name, difference in distances.items():
        if not difference <= _TOLERANCE:
            raise SystemExit(f"{work.title}: the meta-gradient of {name} is off by {difference:.1e}; nothing was timed")
    return distances


def measure(work: Work, makers: dict[str, Callable[[Work], Contender]], seconds: float) -> dict[str, float]:
    """The median seconds of a meta-step, by contender."""
    steps = {name: make(work) for name, make in makers.items()}
    for step in steps.values():
        step(), step()  # the first calls compile and fill caches
    return interleaved(steps, seconds, torch.device(work.device))


def table(work: Work, times: dict[str, float]) -> Table:
    """A table of times and speed-ups over the fastest other library that loops over tasks."""
    others = {name: seconds for name, seconds in times.items() if not name.startswith(("ours", "plain"))}
    loops = {name: seconds for name, seconds in others.items() if not name.endswith("vmap")}
    fastest = min(loops, key=lambda name: loops[name])
    result = Table(
        title=work.title,
        caption=f"times faster than {fastest}, the fastest of the other libraries that loop over tasks",
    )
    for heading in ("", "ms per meta-step", "times faster"):
        result.add_column(heading, justify="right" if heading else "left")
    for name, seconds in sorted(times.items(), key=lambda item: -item[1]):
        result.add_row(name, f"{1e3 * seconds:.2f}", f"{loops[fastest] / seconds:.2f}")
    return result


def main() -> None:
    """Compares the gradients, times the contenders and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=[*WORKS], help="the workloads to time")
    parser.add_argument("--learn2learn", type=Path, help="the folder with the source of learn2learn")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="time ours compiled too")
    parser.add_argument("--seconds", type=float, default=20.0, help="approximate time to spend on each contender")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gpu = options.device == "cuda"
    makers = _makers(options.learn2learn, compile=options.compile, gpu=gpu)
    console = Console()
    machine = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {options.threads} threads"
    console.print(f"torch {torch.__version__}, {machine}")
    for name in options.work:
        work = WORKS[name]._replace(device=options.device)
        distances = check(work, makers)
        console.print(f"{work.title}: all meta-gradients within {max(distances.values()):.0e} of a plain loop's")
        console.print(table(work, measure(work, makers, options.seconds)))


if __name__ == "__main__":
    main()
