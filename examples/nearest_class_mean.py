"""How far pixels alone carry: each query gets the class whose mean support picture is nearest. A floor for any method.

Judged on the very episodes of `test` with `configs/omniglot_5w1s/maml.yaml` (the hash is that of the report).
"""

import sys

import torch

from meta_lightning import ConfigError, EpisodicDataModule
from meta_lightning.data import Omniglot
from meta_lightning.report import mean_and_interval


def main(root: str | None = None, ways: int = 5, shots: int = 1, queries: int = 1, tasks: int = 2000) -> float:
    source = Omniglot(root, split="random", split_seed=0, rotations="per_task")
    data = EpisodicDataModule(source, ways=ways, shots=shots, queries=queries, test_tasks=tasks)
    data.prepare_data()
    data.setup("test")
    accuracies = []
    for first in range(0, tasks, 100):
        batch = data.on_after_batch_transfer(data.draw("test", torch.arange(first, min(first + 100, tasks))), 0)
        support, query = batch.support.x.flatten(2), batch.query.x.flatten(2)  # [tasks, examples, pixels]
        means = support.view(len(support), ways, shots, -1).mean(2)  # the support set stands class by class
        accuracies.append((torch.cdist(query, means).argmin(-1) == batch.query.y).float().mean(1))
    mean, interval = mean_and_interval(torch.cat(accuracies))
    print(f"nearest class mean: {mean:.2%} ± {interval:.2%} over {tasks} tasks, episodes {data.episode_hash('test')}")
    return mean


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except ConfigError as error:
        sys.exit(f"{error}\nusage: python examples/nearest_class_mean.py FOLDER_WITH_THE_ZIPS")
