"""Sinusoids, whose amplitude and phase are found again by least squares."""

import pytest
import torch

from meta_lightning.data import Sinusoid
from meta_lightning.data.episodes import keys
from meta_lightning.types import EpisodeShape

SHAPE = EpisodeShape(None, shots=4, queries=6)


def draw(source, tasks, split="train"):
    """Inputs and targets of tasks, ``[tasks, examples]`` each, support before query."""
    task = source.load(split).draw(keys(0, split, torch.arange(tasks)), SHAPE)
    return (torch.cat([known, asked], 1).squeeze(-1).double() for known, asked in zip(*task[:2], strict=True))


def fit(x, y):
    """Amplitude, phase and the largest residual of ``y = A sin(x - p) = (A cos p) sin x - (A sin p) cos x``."""
    waves = torch.stack([x.sin(), -x.cos()], -1)
    solution = torch.linalg.lstsq(waves, y[..., None]).solution
    along, across = solution[:, 0, 0], solution[:, 1, 0]
    return along.hypot(across), torch.atan2(across, along), (waves @ solution - y[..., None]).abs().max()


def test_targets_are_a_sinusoid_of_the_published_ranges():
    x, y = draw(Sinusoid(), 2000)
    amplitude, phase, residual = fit(x, y)
    assert residual < 1e-5
    # A phase is known the better the higher its wave is.
    for drawn, low, high in ((amplitude, 0.1 - 1e-4, 5 + 1e-4), (phase, -1e-3, torch.pi + 1e-3), (x, -5, 5)):
        assert low <= drawn.min()
        assert drawn.max() <= high


def test_draws_fill_their_ranges_evenly():
    x, y = draw(Sinusoid(), 2000)
    amplitude, phase, _ = fit(x, y)
    for drawn, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, torch.pi), (x, -5.0, 5.0)):
        unit = (drawn.flatten() - low) / (high - low)
        assert unit.min() < 0.01
        assert unit.max() > 0.99
        quarters = (unit * 4).long().clamp(0, 3).bincount() / len(unit)
        # Four standard errors of a quarter of 2000 draws.
        assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.04)


def test_amplitude_phase_and_inputs_are_independent():
    x, y = draw(Sinusoid(), 2000)
    amplitude, phase, _ = fit(x, y)
    correlations = torch.corrcoef(torch.stack([amplitude, phase, x[:, 0], x[:, 1], x[:, -1]]))
    assert correlations.fill_diagonal_(0).abs().max() < 0.09  # four standard errors


def test_other_ranges_are_kept_to():
    x, y = draw(Sinusoid(amplitude=(2.0, 3.0), phase=(1.0, 1.5), x=(0.0, 4.0)), 500)
    amplitude, phase, residual = fit(x, y)
    assert residual < 1e-5
    for drawn, low, high in ((amplitude, 2.0, 3.0), (phase, 1.0, 1.5), (x, 0.0, 4.0)):
        assert low - 1e-4 < drawn.min() < low + 0.1
        assert high - 0.1 < drawn.max() < high + 1e-4


def test_the_description_gives_what_is_drawn():
    family, drawn = Sinusoid().load("train"), keys(0, "train", torch.arange(50))
    described = torch.tensor([[float(number) for number in row] for row in family.describe(drawn, SHAPE)])
    x, y = draw(Sinusoid(), 50)
    amplitude, phase, _ = fit(x, y)
    torch.testing.assert_close(described[:, 0].double(), amplitude, atol=1e-4, rtol=0)
    torch.testing.assert_close(described[:, 1].double(), phase, atol=1e-3, rtol=0)
    torch.testing.assert_close(described[:, 2:].double(), x)


def test_inputs_and_targets_are_columns():
    task = Sinusoid().load("train").draw(keys(0, "train", torch.arange(3)), SHAPE)
    assert [tensor.shape for tensor in (*task.support, *task.query)] == [(3, 4, 1), (3, 4, 1), (3, 6, 1), (3, 6, 1)]
    assert {tensor.dtype for tensor in (*task.support, *task.query)} == {torch.float32}


def test_splits_share_no_function():
    amplitudes = torch.cat([fit(*draw(Sinusoid(), 300, split))[0] for split in ("train", "val", "test")])
    assert len((amplitudes * 1e7).round().unique()) == 900


def test_every_shape_can_be_drawn_and_inputs_are_used_as_they_are():
    family = Sinusoid().load("train")
    family.check(EpisodeShape(None, 1000, 1000))
    x = torch.randn(3)
    assert family.preprocess(x) is x


def test_the_fingerprint_tells_ranges_apart():
    sources = [Sinusoid(), Sinusoid(amplitude=(0.1, 4.0)), Sinusoid(phase=(0.0, 1.0)), Sinusoid(x=(0.0, 1.0))]
    assert len({source.fingerprint() for source in sources}) == 4
    assert Sinusoid().fingerprint() == Sinusoid().fingerprint()
