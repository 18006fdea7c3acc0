"""MAML with nothing hidden: the inner loop and the meta-gradient in ten lines of plain PyTorch.

Beside them stands the same computation with the package's functional core, and both give the same gradient. The
numbers of the equations are those of Finn, Abbeel & Levine, "Model-agnostic meta-learning for fast adaptation of deep
networks", 2017. For tasks T_i with the loss L_Ti, inner rate alpha and outer rate beta:

    theta_i' = theta - alpha grad_theta L_Ti(f_theta)                                    section 2.2, one gradient step
    min_theta  sum_i L_Ti(f_theta_i')                                                    section 2.2, the meta-objective
    theta <- theta - beta grad_theta sum_i L_Ti(f_theta_i')                              equation (1)
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from meta_lightning import EpisodeShape, Task
from meta_lightning.data import Sinusoid
from meta_lightning.data.episodes import keys
from meta_lightning.functional import Backend, adapt, last, mean_gradient, sgd

Params = dict[str, Tensor]
ALPHA, STEPS = 0.01, 2


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def by_hand(f: nn.Module, theta: Params, tasks: Task) -> Params:
    """The meta-gradient, averaged over tasks."""

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(functional_call(f, params, (x,)), y)  # L_T(f_params), equation (2)

    theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    total = torch.zeros(())
    for support_x, support_y, query_x, query_y in zip(*tasks.support, *tasks.query, strict=True):  # algorithm 2, line 4
        adapted = theta
        for _ in range(STEPS):
            support_loss = loss(adapted, support_x, support_y)  # algorithm 2, line 6
            # create_graph keeps the way back to theta: the meta-gradient needs the second derivative.
            grads = torch.autograd.grad(support_loss, [*adapted.values()], create_graph=True)
            adapted = {
                name: value - ALPHA * g for (name, value), g in zip(adapted.items(), grads, strict=True)
            }  # line 7
        total = total + loss(adapted, query_x, query_y)  # the sum in line 10, on other examples (line 8)
    grads = torch.autograd.grad(total / len(tasks.support.x), [*theta.values()])  # equation (1)
    return dict(zip(theta, grads, strict=True))


def by_the_package(f: nn.Module, theta: Params, tasks: Task) -> Params:
    """The same, for all tasks at once."""

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(functional_call(f, params, (x,)), y)

    def query_loss(params: Params, task: Task) -> tuple[Tensor, Tensor]:
        adapted, _ = last(adapt(lambda current, _: loss(current, *task.support), params, sgd(), ALPHA, STEPS))
        after = loss(adapted, *task.query)
        return after, after  # the value to differentiate, and the value to return as it is

    grads, _ = mean_gradient(query_loss, theta, tasks, Backend("vmap"))
    return grads


def main(meta_steps: int = 1000) -> float:
    torch.manual_seed(0)
    f = net()
    optimizer = torch.optim.Adam(f.parameters(), lr=1e-3)  # beta, and Adam in the place of line 10's gradient step
    family, shape = Sinusoid().load("train"), EpisodeShape(ways=None, shots=10, queries=10)
    largest = 0.0
    for step in range(meta_steps):
        tasks = family.draw(keys(0, "train", torch.arange(25 * step, 25 * (step + 1))), shape)  # algorithm 2, line 3
        theta = {name: param.detach() for name, param in f.named_parameters()}
        grads = by_hand(f, theta, tasks)
        if step % 100 == 0:
            others = by_the_package(f, theta, tasks)
            difference = max((grads[name] - others[name]).abs().max().item() for name in grads)
            largest = max(largest, difference)
            print(f"meta-step {step}: the two meta-gradients differ by {difference:.1e} at most")
        for name, param in f.named_parameters():
            param.grad = grads[name]
        optimizer.step()
    return largest


if __name__ == "__main__":
    main()
