"""What every algorithm must hold: see `cases.py`."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from meta_lightning.algorithms import MetaModule
from meta_lightning.functional.tasks import Backend, Loop
from meta_lightning.nets import Conv4
from meta_lightning.types import Examples, Task

from .cases import CASES, Case
from .problems import Smooth, single

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def pictures(tasks: int = 6) -> Task:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(tasks, 2)

    def part() -> Examples:
        return Examples(torch.rand(tasks, 6, 1, 16, 16, generator=generator, dtype=torch.float64), labels)

    return Task(part(), part(), *[torch.arange(tasks)] * 2)


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in gradient.values()])


def meta_step(module: MetaModule, tasks: Task) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    buffers = dict(module.named_buffers())
    grads, changed, metrics = module.meta_step(module.learnable(), buffers, tasks, torch.tensor(0))
    return flat(grads), changed, metrics


@pytest.fixture
def _double() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@every_case
@pytest.mark.usefixtures("_double")
def test_meta_gradient_is_that_of_the_mean_over_tasks_by_finite_differences(case: Case) -> None:
    torch.manual_seed(0)
    module, tasks = case.make(case.problem.net()), case.problem.tasks()
    found, _, _ = meta_step(module, tasks)
    origin = flat(module.learnable())

    def mean_objective(theta: Tensor) -> float:
        return sum(case.objective(theta, origin, single(tasks, number)).item() for number in range(4)) / 4

    epsilon, expected = 1e-5, torch.empty_like(origin)
    for i in range(len(origin)):
        shift = torch.zeros_like(origin)
        shift[i] = epsilon
        expected[i] = (mean_objective(origin + shift) - mean_objective(origin - shift)) / (2 * epsilon)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@every_case
@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(
    "backend",
    [
        {"task_chunk": 2},
        {"task_chunk": 4},
        {"task_loop": "loop"},
        {"task_loop": "split"},
        {"task_loop": "split", "task_chunk": 4},
    ],
    ids=["chunks", "ragged chunks", "loop", "split", "split, ragged chunks"],
)
@pytest.mark.parametrize("batch_norm", ["transductive", "inductive", "support_plus_one"])
def test_chunks_and_loop_give_the_gradient_of_vmap(case: Case, backend: dict, batch_norm: str) -> None:
    results = []
    for options in ({}, backend):
        torch.manual_seed(0)
        module = case.make(Conv4(3, width=4, downsample="max_pool", image_size=16), batch_norm=batch_norm, **options)
        tasks = pictures()
        grads, changed, metrics = meta_step(module, tasks)
        evaluation = module.evaluate(tasks)
        results.append([grads, *changed.values(), *metrics.values(), *evaluation.values()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=case.rounding)


@every_case
def test_no_output_of_a_meta_step_carries_a_graph(case: Case) -> None:
    module = case.make(case.problem.net())
    grads, changed, metrics = meta_step(module, case.problem.tasks())
    assert grads.numel()
    for tensor in [grads, *changed.values(), *metrics.values()]:
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


@every_case
def test_evaluation_is_the_same_under_inference_mode(case: Case) -> None:
    module = case.make(case.problem.net()).eval()
    plain = module.evaluate(case.problem.tasks())
    with torch.inference_mode():
        inferred = module.evaluate(case.problem.tasks())
    assert plain.keys() == inferred.keys() >= {"index", "loss", case.problem.metric}
    for name, values in plain.items():
        assert torch.equal(values, inferred[name])


@every_case
def test_the_ends_of_the_curve_alone_are_those_of_the_whole(case: Case) -> None:
    module, tasks = case.make(case.problem.net()).eval(), case.problem.tasks()
    whole, short = module.evaluate(tasks), module.evaluate(tasks, every_step=False)
    assert torch.equal(short["loss"][:, 0], whole["loss"][:, 0])
    assert torch.equal(short["loss"][:, -1], whole["loss"][:, -1])
    assert short["loss"].shape[1] == min(2, whole["loss"].shape[1])


# The first compiler runs the tracing and the functionalised graph, but not the slow generation of code.
@every_case
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("loop", ["vmap", "loop"])
def test_compiled_meta_step_gives_the_same_gradient(case: Case, loop: Loop, compiler: str) -> None:
    torch.manual_seed(0)
    module, tasks = case.make(case.problem.net()), case.problem.tasks()
    arguments = module.learnable(), dict(module.named_buffers()), tasks, torch.tensor(0)
    torch.compiler.reset()  # every case compiles the same function anew, and the compiler counts
    expected = flat(module.meta_step(*arguments)[0])
    module.set_backend(Backend(loop), compiler=compiler)
    torch.testing.assert_close(flat(module.meta_step(*arguments)[0]), expected)


def trainer(steps: int) -> Trainer:
    return Trainer(
        max_steps=steps, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        default_root_dir=Path.cwd(),
    )  # fmt: skip


@every_case
def test_training_lowers_the_loss(case: Case) -> None:
    torch.manual_seed(0)
    module = case.make(case.problem.net(hidden=16), optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    before = module.evaluate(case.problem.tasks(64))["loss"][:, -1].mean()
    trainer(60).fit(module, datamodule=case.problem.data())
    assert module.evaluate(case.problem.tasks(64))["loss"][:, -1].mean() < 0.9 * before


@every_case
def test_a_resumed_run_is_the_same_run(case: Case) -> None:
    def module() -> MetaModule:
        torch.manual_seed(0)
        return case.make(
            case.problem.net(dropout=0.2), lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)
        )

    whole, first, second = module(), module(), module()
    trainer(25).fit(whole, datamodule=case.problem.data())

    stopped = trainer(13)
    stopped.fit(first, datamodule=case.problem.data())
    stopped.save_checkpoint("stopped.ckpt", weights_only=False)
    torch.nn.init.zeros_(second.net.first.weight)
    resumed = trainer(25)
    resumed.fit(second, datamodule=case.problem.data(), ckpt_path="stopped.ckpt", weights_only=True)
    assert resumed.global_step == 25
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


class UnderTwoNames(nn.Module):
    """A net that holds its layers by name and once more in the chain that predicts, as many nets do."""

    def __init__(self, net: Smooth) -> None:
        super().__init__()
        self.body, self.head = net.first, net.second
        self.chain = nn.Sequential(nn.Flatten(), net.first, nn.Tanh(), net.second)

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x)


@every_case
@pytest.mark.parametrize("loop", ["vmap", "loop", "split"])
def test_a_layer_under_two_names_is_one_layer(case: Case, loop: Loop) -> None:
    nets: list[nn.Module] = []
    for wrap in (lambda net: net, UnderTwoNames):
        torch.manual_seed(0)
        net = case.problem.net()
        trainer(3).fit(case.make(wrap(net), task_loop=loop), datamodule=case.problem.data())
        nets.append(net)
    once, twice = nets
    assert all(isinstance(parameter, nn.Parameter) for parameter in twice.parameters())
    for name, value in once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], value)


@every_case
def test_parameters_that_do_not_learn_stay(case: Case) -> None:
    torch.manual_seed(0)
    net = case.problem.net()
    net.first.requires_grad_(requires_grad=False)
    module = case.make(net)
    frozen = {name: value.clone() for name, value in net.first.named_parameters()}
    learning = net.second.weight.clone()
    trainer(2).fit(module, datamodule=case.problem.data())
    assert all(torch.equal(value, net.first.get_parameter(name)) for name, value in frozen.items())
    assert not torch.equal(learning, net.second.weight)
