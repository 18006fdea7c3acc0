"""Few-shot regression from a CSV file: 200 linear tasks with noise, and what can be had without meta-learning.

Writes ``linear.csv`` and measures two regressions on the test episodes of ``configs/my_table/maml.yaml``: one for the
rows of all training tasks together (pooled), and one for the support set of each episode alone (ridge). Compare with
MAML:

    python examples/linear_tasks.py
    python -m meta_lightning fit --config configs/my_table/maml.yaml --data.source.root linear.csv
    python -m meta_lightning test --config configs/my_table/maml.yaml --data.source.root linear.csv --ckpt_path best
"""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meta_lightning.data import EpisodicDataModule, Table
from meta_lightning.types import Split

NOISE = 0.3  # the standard deviation of the targets around the line of their task
RIDGES = torch.logspace(-3, 2, 26).tolist()


def write_tasks(path: Path, tasks: int = 200, rows: int = 30) -> None:
    """Writes tasks ``y = w x + b + noise`` of three inputs, whose coefficients scatter around common ones."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=4)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "a", "b", "c", "y"])
        for number in range(tasks):
            coefficients = common + rng.normal(size=4)
            for x in rng.normal(size=(rows, 3)):
                y = coefficients @ [*x, 1.0] + NOISE * rng.normal()
                writer.writerow([f"task {number}", *x.round(5), round(y, 5)])


def with_ones(x: Tensor) -> Tensor:
    """The inputs, ``[..., examples, width]``, with a column of ones for the intercept."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1).double()


def fitted(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """The coefficients of a ridge regression, ``[..., width + 1, 1]``, which does not shrink the intercept."""
    x = with_ones(x)
    penalty = torch.eye(x.shape[-1]).double() * ridge
    penalty[-1, -1] = 1e-9
    coefficients: Tensor = torch.linalg.solve(x.mT @ x + penalty, x.mT @ y.double())
    return coefficients


def baselines(data: EpisodicDataModule) -> dict[str, float]:
    """The mean squared error of each regression on the test episodes, in the unit of the command ``test``."""

    def episodes(split: Split, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        task = data.draw(split, torch.arange(number))
        return task.support.x, task.support.y, task.query.x, task.query.y

    def ridge_error(ridge: float, split: Split, number: int) -> float:
        support_x, support_y, query_x, query_y = episodes(split, number)
        return float((with_ones(query_x) @ fitted(support_x, support_y, ridge) - query_y).square().mean())

    x, y, _, _ = episodes("train", 2000)
    pooled = fitted(x.flatten(0, 1), y.flatten(0, 1), 0.0)
    _, _, query_x, query_y = episodes("test", data.test_tasks)
    ridge = min(RIDGES, key=lambda ridge: ridge_error(ridge, "val", data.val_tasks))
    return {
        "pooled regression": float((with_ones(query_x) @ pooled - query_y).square().mean()),
        "ridge of each task": ridge_error(ridge, "test", data.test_tasks),
    }


def main() -> None:
    """Writes the table and prints the figures."""
    path = Path("linear.csv")
    write_tasks(path)
    source = Table(str(path), task="task", target="y")
    data = EpisodicDataModule(source, shots=10, queries=10)
    for name, error in baselines(data).items():
        print(f"{name}: MSE {error:.4f}")
    deviation = source.constants()["reader"]["init_args"]["target_deviation"]
    print(f"the noise alone: MSE {(NOISE / deviation) ** 2:.4f} (times {deviation**2:.2f} in the unit of the column)")


if __name__ == "__main__":
    main()
