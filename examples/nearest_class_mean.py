"""A baseline without training: each query gets the class whose mean support picture is nearest in pixel space.

The episodes are those of `test` with `configs/glyphs_5w1s`, and the printed hash is the hash in its reports. With the
folder of the Omniglot zips as an argument, they are the episodes of the 2,000 test tasks of `configs/omniglot_5w1s`.
"""

import sys

import torch

from meta_lightning import ConfigError, EpisodicDataModule
from meta_lightning.data import Glyphs, Omniglot
from meta_lightning.reporting.statistics import mean_and_interval


def main(data: EpisodicDataModule) -> float:
    data.prepare_data()
    data.setup("test")
    shape = data.eval_shape
    accuracies = []
    for first in range(0, data.test_tasks, 100):
        batch = data.draw("test", torch.arange(first, min(first + 100, data.test_tasks)))
        batch = data.on_after_batch_transfer(batch, 0)
        support, query = batch.support.x.flatten(2), batch.query.x.flatten(2)  # [tasks, examples, pixels]
        by_class = support.view(len(support), -1, shape.shots, support.shape[-1])  # the support set is in class order
        means = by_class.mean(2)  # [tasks, ways, pixels]
        accuracies.append((torch.cdist(query, means).argmin(-1) == batch.query.y).float().mean(1))
    mean, interval = mean_and_interval(torch.cat(accuracies))
    episodes = data.episode_hash("test")
    print(f"nearest class mean: {mean:.2%} ± {interval:.2%} over {data.test_tasks} tasks, episodes {episodes}")
    return mean


def glyphs() -> EpisodicDataModule:
    return EpisodicDataModule(Glyphs(), ways=5, shots=1, queries=15, test_tasks=600)


def omniglot(root: str, tasks: int = 2000) -> EpisodicDataModule:
    source = Omniglot(root, split="random", split_seed=0, rotations="per_task")
    return EpisodicDataModule(source, ways=5, shots=1, queries=1, test_tasks=tasks)


if __name__ == "__main__":
    try:
        main(omniglot(sys.argv[1]) if len(sys.argv) > 1 else glyphs())
    except ConfigError as error:
        sys.exit(f"{error}\nusage: python examples/nearest_class_mean.py [FOLDER_WITH_THE_OMNIGLOT_ZIPS]")
