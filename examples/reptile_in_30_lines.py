"""Reptile on sinusoids with the functional core alone, without Lightning or classes; takes about a minute on a laptop.

Each task is a sinusoid with its own amplitude and phase. The inner loop fits it to ten points with five gradient steps.
The outer loop moves the initialisation part of the way to the mean of where the inner loops end (Nichol et al. 2018,
algorithm 2). No gradient is taken through the inner loop.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from meta_lightning import EpisodeShape, Task
from meta_lightning.data import Sinusoid
from meta_lightning.data.episodes import keys
from meta_lightning.functional import Backend, adapt, last, map_tasks, sgd

Params = dict[str, Tensor]


def main(meta_steps: int = 10_000, epsilon: float = 1.0) -> list[float]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    family, shape = Sinusoid().load("train"), EpisodeShape(ways=None, shots=10, queries=10)
    theta = {name: param.detach() for name, param in net.named_parameters()}

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(functional_call(net, params, (x,)), y)

    def inner_loop(task: Task) -> tuple[Params, Tensor]:
        inner = adapt(lambda current, _: loss(current, *task.support), theta, sgd(), rates=0.02, steps=5)
        phi, _ = last(inner)  # `adapt` yields the parameters and the state of the rule after each step
        return phi, loss(phi, *task.query)

    history = []
    for step in range(meta_steps):
        tasks = family.draw(keys(0, "train", torch.arange(10 * step, 10 * (step + 1))), shape)
        with torch.no_grad():  # `adapt` takes its own gradients
            phi, losses = map_tasks(inner_loop, tasks, Backend("vmap"))
        rate = epsilon * (1 - step / meta_steps)
        theta = {name: value + rate * (phi[name].mean(0) - value) for name, value in theta.items()}
        history.append(losses.mean().item())
        if (step + 1) % 500 == 0:
            print(f"meta-step {step + 1}: query loss after five steps {sum(history[-500:]) / 500:.3f}")
    return history


if __name__ == "__main__":
    main()
