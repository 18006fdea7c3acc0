"""What the rows of the conformance table are tried on: one regression, one classification, each with a small net."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meta_lightning import EpisodeShape, EpisodicDataModule
from meta_lightning.data import Sinusoid, Source
from meta_lightning.data.episodes import draw
from meta_lightning.data.sources import LabelledImages
from meta_lightning.types import Split, Task


class Smooth(nn.Module):
    """A net without kinks, so that finite differences are exact to rounding: one hidden layer of tanh."""

    def __init__(self, in_features: int, hidden: int, out_features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, hidden)
        self.second = nn.Linear(hidden, out_features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.dropout(torch.tanh(self.first(x.flatten(1)))))


class Faces(Source):
    """Pictures of 4x4 pixels: a class is a random picture, an example a mixture of it with noise."""

    def prepare(self) -> None:
        pass

    def load(self, split: Split) -> LabelledImages:
        generator = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
        classes, noise = (torch.rand(shape, generator=generator) for shape in [(12, 1, 1, 4, 4), (12, 8, 1, 4, 4)])
        pictures = (127 * classes + 127 * noise).to(torch.uint8)
        return LabelledImages(pictures, [f"{split}{number}" for number in range(12)], split=split)

    def fingerprint(self) -> str:
        return "faces"


def single(tasks: Task, number: int) -> Task:
    """One task of a meta-batch."""
    return tree_map(lambda tensor: tensor[number], tasks)


@dataclass(frozen=True)
class Problem:
    """Tasks and a net for them.

    Attributes:
        source: Where the tasks come from.
        shape: Of an episode.
        metric: What is reported beside the loss.
        widths: Of `Smooth`: input, hidden layer, output.
    """

    source: Source
    shape: EpisodeShape
    metric: str
    widths: tuple[int, int, int]

    def net(self, hidden: int | None = None, dropout: float = 0.0) -> Smooth:
        before, inside, after = self.widths
        return Smooth(before, hidden or inside, after, dropout)

    def tasks(self, count: int = 4) -> Task:
        family = self.source.load("train")
        tasks = draw(family, 0, "train", self.shape, torch.arange(count))
        ready: Callable[..., Tensor] = family.preprocess
        return tasks._replace(
            support=tasks.support._replace(x=ready(tasks.support.x)), query=tasks.query._replace(x=ready(tasks.query.x))
        )

    def data(self) -> EpisodicDataModule:
        ways, shots, queries = self.shape
        return EpisodicDataModule(
            self.source, ways=ways, shots=shots, queries=queries, meta_batch_size=4, val_tasks=4, test_tasks=4
        )


# Inputs near zero keep curvature low: with the cases' large inner rate the published range diverges.
SINUSOIDS = Problem(Sinusoid(x=(-1.0, 1.0)), EpisodeShape(None, 5, 7), "mse", (1, 6, 1))
FACES = Problem(Faces(), EpisodeShape(3, 2, 2), "accuracy", (16, 6, 4))
