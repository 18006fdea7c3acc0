"""MAML on sinusoids with the functional core alone, without Lightning or classes; takes about a minute on a laptop.

Each task is a sinusoid with its own amplitude and phase. The inner loop fits it to ten points with one gradient step.
The outer loop learns the initialisation that minimises the loss after this step.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from meta_lightning import EpisodeShape, Task
from meta_lightning.data import Sinusoid
from meta_lightning.data.episodes import keys
from meta_lightning.functional import Backend, adapt, last, mean_gradient, sgd

Params = dict[str, Tensor]


def main(meta_steps: int = 10_000) -> list[float]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    family, shape = Sinusoid().load("train"), EpisodeShape(ways=None, shots=10, queries=10)

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(functional_call(net, params, (x,)), y)

    def query_loss(params: Params, task: Task) -> tuple[Tensor, Tensor]:
        inner = adapt(lambda current, _: loss(current, *task.support), params, sgd(), rates=0.01, steps=1)
        adapted, _ = last(inner)  # `adapt` yields the parameters and the state of the rule after each step
        after = loss(adapted, *task.query)
        return after, after  # the value to differentiate, and the value to return as it is

    history = []
    for step in range(meta_steps):
        tasks = family.draw(keys(0, "train", torch.arange(25 * step, 25 * (step + 1))), shape)
        params = {name: param.detach() for name, param in net.named_parameters()}
        grads, losses = mean_gradient(query_loss, params, tasks, Backend("vmap"))  # through the inner step
        for name, param in net.named_parameters():
            param.grad = grads[name]
        optimizer.step()
        history.append(losses.mean().item())
        if (step + 1) % 500 == 0:
            print(f"meta-step {step + 1}: query loss after one step {sum(history[-500:]) / 500:.3f}")
    return history


if __name__ == "__main__":
    main()
