"""Regression of sinusoids, the toy problem of the MAML paper (Finn et al. 2017)."""

import math
from typing import Any

import torch
from torch import Tensor

from meta_lightning.data.readers.base import recipe
from meta_lightning.data.readers.columns import Columns, Scale
from meta_lightning.data.readers.table import TableReader
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import EpisodeShape, Examples, Inputs, Split, Task


class Sinusoid(Source):
    """Tasks of regressing ``y = amplitude * sin(x - phase)``, as in Finn et al. 2017, section 5.1.

    Each task draws its amplitude, phase and inputs uniformly. All splits draw from one distribution. Their random keys
    differ, so no two tasks share a function.

    Args:
        amplitude: Range of amplitudes.
        phase: Range of phases, in radians.
        x: Range of inputs.

    Raises:
        ConfigError: If a range is not two finite numbers, the lower one first.

    Example:
        >>> from meta_lightning.data import EpisodicDataModule
        >>> data = EpisodicDataModule(Sinusoid(amplitude=(1.0, 2.0)), shots=10)
        >>> task = data.draw("val", torch.arange(3))
        >>> bool(task.support.y.abs().max() <= 2)
        True
    """

    def __init__(
        self,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, torch.pi),
        x: tuple[float, float] = (-5.0, 5.0),
    ) -> None:
        for key, (low, high) in {"amplitude": amplitude, "phase": phase, "x": x}.items():
            if not 0 <= high - low < math.inf:  # a comparison with nan is false, so nan is refused too
                raise ConfigError(
                    f"data.source.{key} is [{low}, {high}]; expected two finite numbers, the lower first: for example "
                    "[0.1, 5.0]"
                )
        self._amplitude = amplitude
        self._phase = phase
        self._x = x

    def prepare(self) -> None:
        """Does nothing. There is no data to fetch."""

    def load(self, split: Split) -> Family:
        """The family of sinusoids, the same for every split."""
        return _Sinusoids(self._amplitude, self._phase, self._x)

    def fingerprint(self) -> str:
        """The ranges as text."""
        return f"sinusoid amplitude={self._amplitude} phase={self._phase} x={self._x}"

    def constants(self) -> dict[str, Any]:
        """How points are read: from a CSV file with the columns ``x`` and ``y``."""
        columns = Columns(["x"], [Scale(0.0, 1.0)], [], [])
        return {"reader": recipe(TableReader, **TableReader.arguments(columns, "y", Scale(0.0, 1.0), None))}


class _Sinusoids:
    def __init__(self, amplitude: tuple[float, float], phase: tuple[float, float], x: tuple[float, float]) -> None:
        self._amplitude = amplitude
        self._phase = phase
        self._x = x

    def check(self, shape: EpisodeShape) -> None:
        """Refuses ``ways``, since functions have no classes."""
        if shape.ways is not None:
            raise ConfigError(f"data.ways is {shape.ways}, but sinusoids have no classes; leave data.ways out")

    def to(self, device: torch.device) -> None:
        """Does nothing. Functions are computed from their parameters, so no example is stored."""

    def _parameters(self, keys: Tensor, shape: EpisodeShape) -> tuple[Tensor, Tensor, Tensor]:
        """Amplitude ``[tasks, 1]``, phase ``[tasks, 1]`` and inputs ``[tasks, examples]``."""
        unit = random.uniform(keys, 2 + shape.shots + shape.queries)
        ranges = (self._amplitude, self._phase, self._x)
        amplitude, phase, x = (
            low + (high - low) * part for (low, high), part in zip(ranges, unit.tensor_split((1, 2), 1), strict=True)
        )
        return amplitude, phase, x

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        """Draws tasks. Inputs and targets are ``[tasks, examples, 1]``."""
        return _task(*self._parameters(keys, shape), shape)

    def rebuild(self, described: list[Any], shape: EpisodeShape, keys: Tensor) -> Task:
        """Rebuilds tasks from their amplitude, phase and inputs, which agree with the drawn ones to nine digits."""
        try:
            parameters = torch.tensor([[float(value) for value in row] for row in described], dtype=torch.float64)
            amplitude, phase, x = parameters.tensor_split((1, 2), 1)
        except (ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"data.episodes does not describe sinusoids ({error}); expected a manifest of this data"
            ) from error
        return _task(amplitude, phase, x, shape)

    def problem(self, episode: Any, shape: EpisodeShape) -> str | None:
        """Says why a description is not of a sinusoid of this family and shape; None if it is."""
        try:
            amplitude, phase, *x = [float(value) for value in episode]
        except (ValueError, TypeError, OverflowError):
            return "is not a list of an amplitude, a phase and inputs"
        for name, values, ends in (
            ("an amplitude", [amplitude], self._amplitude), ("a phase", [phase], self._phase), ("an input", x, self._x)
        ):  # fmt: skip
            tolerance = 1e-8 * max(abs(end) for end in ends)  # nine digits
            for value in values:
                if not ends[0] - tolerance <= value <= ends[1] + tolerance:
                    return f"has {name} of {value}; expected {ends[0]} to {ends[1]}"
        if len(x) != shape.shots + shape.queries:
            return f"has {len(x)} inputs; expected {shape.shots} + {shape.queries}"
        shared = {*x[: shape.shots]} & {*x[shape.shots :]}
        return f"has input {shared.pop()} in support and query; expected distinct inputs" if shared else None

    def describe(self, keys: Tensor, shape: EpisodeShape) -> list[Any]:
        """Amplitude, phase and inputs of each task, to nine digits, since the last bits may differ between machines."""
        return [[f"{value:.9g}" for value in row] for row in torch.cat(self._parameters(keys, shape), dim=1).tolist()]

    def preprocess(self, x: Inputs) -> Inputs:
        """Returns the inputs unchanged."""
        return x


def _task(amplitude: Tensor, phase: Tensor, x: Tensor, shape: EpisodeShape) -> Task:
    y = amplitude * torch.sin(x - phase)
    dtype = torch.get_default_dtype()
    x, y = x[..., None].to(dtype), y[..., None].to(dtype)
    support = Examples(x[:, : shape.shots], y[:, : shape.shots])
    return Task(support, Examples(x[:, shape.shots :], y[:, shape.shots :]), *[torch.arange(len(x))] * 2)
