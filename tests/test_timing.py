from statistics import median

import pytest
import torch

from meta_lightning import timing


def test_functions_take_turns_and_give_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that each function moves on by a known time."""
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    lengths = {"a": [1.0, 5.0, 2.0], "b": [0.5, 0.5, 9.0]}
    spent = {name: [*times] for name, times in lengths.items()}

    def take(name: str) -> None:
        order.append(name)
        now[0] += spent[name].pop(0)

    found = timing.interleaved({"a": lambda: take("a"), "b": lambda: take("b")}, seconds=0.1)
    assert order == ["a", "b"] * 3
    assert found == {name: median(times) for name, times in lengths.items()}


def test_a_budget_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    calls = []

    def quick() -> None:
        calls.append(1)
        now[0] += 0.1

    timing.interleaved({"quick": quick}, seconds=2)
    assert 19 <= len(calls) <= 21


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
