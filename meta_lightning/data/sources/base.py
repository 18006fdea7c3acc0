"""Where tasks come from: a source prepares data once and gives one family of tasks per split."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from meta_lightning.types import EpisodeShape, Split, Task


class Family(Protocol):
    """A distribution of tasks: every task is a pure function of a random key."""

    def check(self, shape: EpisodeShape) -> None:
        """Raises `ConfigError` if an episode of this shape can't be drawn, naming what there is."""

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        """The tasks of these keys as one meta-batch; its ``index`` is filled in by the caller.

        Args:
            keys: int64, ``[tasks]``.
            shape: Ways, shots, queries.
        """

    def describe(self, keys: Tensor, shape: EpisodeShape) -> list[Any]:
        """What each task consists of (names and numbers that JSON can hold), for the episode hash."""

    def recall(self, described: list[Any], shape: EpisodeShape) -> Task:
        """The tasks that `describe` described, otherwise as `draw`.

        Raises:
            ConfigError: If there is no such thing in this family.
        """

    def to(self, device: torch.device) -> None:
        """Keeps what tasks are cut from on a device, from now on; a source that keeps nothing does nothing."""

    def preprocess(self, x: Tensor) -> Tensor:
        """Stored inputs to what a net takes; runs on the device, on ``[tasks, examples, *shape]``."""


class Source(ABC):
    """A benchmark's data. Constructing one touches no file."""

    @abstractmethod
    def prepare(self) -> None:
        """Fetches and caches what is missing. Called on one process per machine, more than once."""

    @abstractmethod
    def load(self, split: Split) -> Family:
        """The tasks of a split. Splits share no class and no content; that is checked here.

        Raises:
            ConfigError: If the data is missing, broken, or shared between splits.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the data and its preprocessing, whatever the episodes drawn from it."""

    def constants(self) -> dict[str, Any]:
        """What using a trained model on new inputs will need (sizes, scaling, class order); goes into checkpoints."""
        return {}
