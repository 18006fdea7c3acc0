import itertools
from collections.abc import Callable

import pytest
import torch

from meta_lightning.profiling import timing


class Clock:
    """A clock that only the functions move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def function(self, name: str, *seconds: float) -> Callable[[], None]:
        left = itertools.cycle(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += next(left)

        return run


def test_functions_take_turns_and_give_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    functions = {"a": clock.function("a", 1, 1, 5, 2), "b": clock.function("b", 0.5, 0.5, 0.5, 9)}
    assert timing.interleaved(functions, seconds=0.1) == {"a": 2, "b": 0.5}  # the first call is not counted
    assert clock.order == ["a", "b"] * 4


def test_a_turn_of_a_quick_function_lasts_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timing.interleaved({"quick": clock.function("quick", 0.001), "slow": clock.function("slow", 1)}, 0.1)
    assert found == pytest.approx({"quick": 0.001, "slow": 1})
    assert clock.order == ["quick", "slow"] + (["quick"] * 50 + ["slow"]) * 3


def test_a_budget_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timing.interleaved({"one": clock.function("one", 0.1)}, seconds=2)
    assert 20 <= len(clock.order) <= 22


def test_the_peak_is_what_was_alive_at_once() -> None:
    def three_then_two() -> None:
        first = torch.ones(1000, 1000)
        second = first + 1
        third = second + 1
        del first, second
        (third * 2).sum()

    assert timing.peak_memory(three_then_two) == pytest.approx(3 * 4e6, rel=0.01)


def test_the_profiler_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    timing.peak_memory(lambda: torch.ones(3))
    assert capfd.readouterr() == ("", "")
