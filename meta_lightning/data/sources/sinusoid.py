"""Regression of sinusoids, the toy problem of the MAML paper."""

import math
from typing import Any

import torch
from torch import Tensor

from meta_lightning.data.sources.base import Family, Source
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import EpisodeShape, Examples, Split, Task


class Sinusoid(Source):
    """``y = amplitude * sin(x - phase)``, as in Finn et al. 2017, section 5.1.

    Each task draws its amplitude and phase uniformly; inputs are uniform too. Splits differ in their random keys: the
    functions are drawn from one distribution, and no two tasks share one.

    Args:
        amplitude: Range of amplitudes.
        phase: Range of phases, in radians.
        x: Range of inputs.

    Raises:
        ConfigError: If a range is not two finite numbers, the lower one first.
    """

    def __init__(
        self,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, torch.pi),
        x: tuple[float, float] = (-5.0, 5.0),
    ) -> None:
        for key, (low, high) in {"amplitude": amplitude, "phase": phase, "x": x}.items():
            if not 0 <= high - low < math.inf:  # false of nan too
                raise ConfigError(
                    f"data.source.{key} is [{low}, {high}]; expected two finite numbers, the lower first: for example "
                    "[0.1, 5.0]"
                )
        self._amplitude = amplitude
        self._phase = phase
        self._x = x

    def prepare(self) -> None:
        """Nothing to fetch."""

    def load(self, split: Split) -> Family:
        """The same family for every split."""
        return _Sinusoids(self._amplitude, self._phase, self._x)

    def fingerprint(self) -> str:
        """The ranges."""
        return f"sinusoid amplitude={self._amplitude} phase={self._phase} x={self._x}"


class _Sinusoids:
    def __init__(self, amplitude: tuple[float, float], phase: tuple[float, float], x: tuple[float, float]) -> None:
        self._amplitude = amplitude
        self._phase = phase
        self._x = x

    def check(self, shape: EpisodeShape) -> None:
        """A function has no classes."""
        if shape.ways is not None:
            raise ConfigError(f"data.ways is {shape.ways}, but sinusoids have no classes; leave data.ways out")

    def to(self, device: torch.device) -> None:
        """Nothing is kept: functions are made from their numbers."""

    def _numbers(self, keys: Tensor, shape: EpisodeShape) -> tuple[Tensor, Tensor, Tensor]:
        """Amplitude and phase ``[tasks, 1]``, and inputs ``[tasks, examples]``, from one stream per task."""
        unit = random.uniform(keys, 2 + shape.shots + shape.queries)
        ranges = (self._amplitude, self._phase, self._x)
        amplitude, phase, x = (
            low + (high - low) * part for (low, high), part in zip(ranges, unit.tensor_split((1, 2), 1), strict=True)
        )
        return amplitude, phase, x

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        """Inputs and targets ``[tasks, examples, 1]``."""
        return _task(*self._numbers(keys, shape), shape)

    def recall(self, described: list[Any], shape: EpisodeShape) -> Task:
        """Functions by their amplitude and phase, at the inputs described: to nine digits what was drawn."""
        try:
            numbers = torch.tensor([[float(value) for value in row] for row in described], dtype=torch.float64)
            amplitude, phase, x = numbers.tensor_split((1, 2), 1)
        except (ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"data.episodes names no sinusoids ({error}); expected a manifest of this data"
            ) from error
        return _task(amplitude, phase, x, shape)

    def describe(self, keys: Tensor, shape: EpisodeShape) -> list[Any]:
        """Amplitude, phase and inputs of each task, to nine digits: the last bits may differ between machines."""
        return [[f"{value:.9g}" for value in row] for row in torch.cat(self._numbers(keys, shape), dim=1).tolist()]

    def preprocess(self, x: Tensor) -> Tensor:
        """Inputs are used as they are."""
        return x


def _task(amplitude: Tensor, phase: Tensor, x: Tensor, shape: EpisodeShape) -> Task:
    y = amplitude * torch.sin(x - phase)
    dtype = torch.get_default_dtype()
    x, y = x[..., None].to(dtype), y[..., None].to(dtype)
    support = Examples(x[:, : shape.shots], y[:, : shape.shots])
    return Task(support, Examples(x[:, shape.shots :], y[:, shape.shots :]), torch.arange(len(x)))
