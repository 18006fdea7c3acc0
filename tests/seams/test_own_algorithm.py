"""Somebody else's algorithm, in one module, driven through the command line as any of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meta_lightning import InnerLoopModule, MAMLModule, load_run
from meta_lightning.cli import main
from meta_lightning.functional.params import strip_prefix
from meta_lightning.functional.tasks import Backend
from meta_lightning.types import Buffers, Params, Task

from ..algorithms.problems import FACES, SINUSOIDS, single
from ..algorithms.test_conformance import flat, trainer

RUN = Path("logs/sinusoid/maml/version_0")
SHORT = [
    "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--data.val_tasks=4", "--data.test_tasks=4",
    "--data.meta_batch_size=2", "--data.eval_batch_size=4", "--trainer.num_sanity_val_steps=0",
]  # fmt: skip


class SignedMAML(InnerLoopModule):
    """MAML whose inner loop follows the smoothed sign of the gradient: thirty lines with its imports."""

    def __init__(self, net: nn.Module, step_size: float = 0.01, sharpness: float = 10.0, **inner: Any) -> None:
        super().__init__(net, **inner)
        self.step_size = step_size
        self.slope = sharpness  # under another name: the setting must not be lost

    def trajectory(
        self, params: Params, buffers: Buffers, task: Task, steps: int, *, first_order: bool
    ) -> Iterator[Params]:
        adapted = strip_prefix(params, "net.")

        def loss(trial: Params, scale: float | None = None) -> Tensor:  # annotated: the compiler must not mind
            return self.support_loss(trial, task.support)

        yield adapted
        for _ in range(steps):
            grads = torch.func.grad(loss)(adapted)
            adapted = {n: p - self.step_size * torch.tanh(self.slope * grads[n]) for n, p in adapted.items()}
            yield adapted


class Twisted(MAMLModule):
    """A variation of ours, with a setting of its own and those of MAML by ``**kwargs``."""

    def __init__(self, net: nn.Module, twist: str = "left", **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        self.twist = twist


@pytest.fixture
def arguments(repository: Path) -> list[str]:
    own = "{class_path: tests.seams.test_own_algorithm.SignedMAML, init_args: {net: {class_path: MLP, init_args: "
    own += "{in_features: 1, out_features: 1}}, sharpness: 20.0, inner_steps: 2}}"
    Path("own.yaml").write_text(
        (repository / "configs/sinusoid/maml.yaml").read_text().split("model:")[0] + f"model: {own}\n"
        "data:" + (repository / "configs/sinusoid/maml.yaml").read_text().split("data:")[1]
    )
    return ["--config=own.yaml", *SHORT]


def test_it_trains_resumes_and_tests(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *arguments]) == 0
    assert main(["fit", *arguments, "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    assert main(["test", *arguments, "--ckpt_path=best"]) == 0
    assert "SignedMAML on sinusoid" in capsys.readouterr().out
    run = load_run(RUN)
    assert isinstance(run.module, SignedMAML)
    assert (run.module.slope, run.record.settings["sharpness"], run.record.settings["step_size"]) == (20.0, 20.0, 0.01)


def test_its_own_settings_are_compared(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *arguments]) == 0
    assert main(["fit", *arguments, "--seed_everything=1", "--model.sharpness=30"]) == 0
    assert main(["test", *arguments, "--ckpt_path=logs/*/*/*/checkpoints/last.ckpt"]) == 2
    said = capsys.readouterr().err
    assert "not training seeds of one experiment: model.sharpness is 20.0 in the first and 30.0 in the other" in said
    assert main(["test", *arguments, "--ckpt_path=last", "--model.sharpness=5"]) == 0
    assert "Note: model.sharpness is 5.0 here, 30.0 in the checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("loop", ["vmap", "loop"])
def test_it_compiles(loop: Any) -> None:
    torch.manual_seed(0)
    module, tasks = SignedMAML(SINUSOIDS.net(), inner_steps=2), SINUSOIDS.tasks()
    arguments = module.learnable(), {}, tasks, torch.tensor(0)
    expected = flat(module.meta_step(*arguments)[0])
    torch.compiler.reset()
    module.set_backend(Backend(loop), compiler="aot_eager")
    torch.testing.assert_close(flat(module.meta_step(*arguments)[0]), expected)


def test_a_subclass_with_kwargs_keeps_every_setting() -> None:
    module = Twisted(SINUSOIDS.net(), "right", inner_lr=0.3, first_order=True, grad_clip=2.0)
    settings = module.settings()
    assert (settings["twist"], settings["inner_lr"], settings["first_order"], settings["grad_clip"]) == (
        "right", 0.3, True, 2.0,
    )  # fmt: skip
    assert {"inner_steps", "eval_inner_steps", "task_loop", "batch_norm"} <= settings.keys()
    running = trainer(1)
    running.fit(module, datamodule=SINUSOIDS.data())
    running.save_checkpoint("twisted.ckpt", weights_only=False)
    assert torch.load("twisted.ckpt", weights_only=True)["settings"] == settings


def test_static_values_are_part_of_what_is_compiled() -> None:
    torch.manual_seed(0)
    module, tasks = MAMLModule(SINUSOIDS.net(), inner_lr=0.5, inner_steps=2), SINUSOIDS.tasks()
    arguments = module.learnable(), {}, tasks, torch.tensor(0)
    torch.compiler.reset()
    module.set_backend(module.backend, compiler="aot_eager")
    for first_order in (True, False, True):
        module.first_order = first_order
        eager = MAMLModule(module.net, inner_lr=0.5, inner_steps=2, first_order=first_order)
        torch.testing.assert_close(flat(module.meta_step(*arguments)[0]), flat(eager.meta_step(*arguments)[0]))


class TwoRates(MAMLModule):
    """Learns its head at a rate of its own."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [*self.net.first.parameters()]}, {"params": [*self.net.second.parameters()], "lr": 0.0}]


def test_an_algorithm_may_name_parameter_groups() -> None:
    module = TwoRates(SINUSOIDS.net(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    trainer(2).fit(module, datamodule=SINUSOIDS.data())
    after = module.net.state_dict()
    assert not torch.equal(before["first.weight"], after["first.weight"])
    assert torch.equal(before["second.weight"], after["second.weight"])


class OnPolicy(MAMLModule):
    """Its data depend on its parameters: targets are shifted by a bias of the net, and the step is noted."""

    def __init__(self, net: nn.Module, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        self.steps: list[int] = []

    def gather(self, params: Params, buffers: Buffers, tasks: Task, step: Tensor) -> Task:
        assert not any(param.requires_grad for param in params.values())
        self.steps.append(int(step))
        support = tasks.support._replace(y=tasks.support.y + params["net.second.bias"])
        return tasks._replace(support=support)


def test_data_are_gathered_before_each_meta_step_and_evaluation() -> None:
    torch.manual_seed(0)
    module = OnPolicy(SINUSOIDS.net(), inner_lr=0.1, inner_steps=1)
    trainer(3).fit(module, datamodule=SINUSOIDS.data())
    assert module.steps == [0, 1, 2, 2]  # a validation after the second
    tasks = SINUSOIDS.tasks()
    shifted = tasks._replace(support=tasks.support._replace(y=tasks.support.y + module.net.second.bias.detach()))
    plain = MAMLModule(module.net, inner_lr=0.1, inner_steps=1)
    assert torch.equal(module.evaluate(tasks)["loss"], plain.evaluate(shifted)["loss"])


def test_adapt_only_moves_what_it_names_and_nothing_else() -> None:
    torch.manual_seed(0)
    net, tasks = FACES.net(), FACES.tasks()
    module = MAMLModule(net, inner_lr=0.5, inner_steps=3, adapt_only=["second.*"])
    task = single(tasks, 0)
    *_, end = module.trajectory(module.learnable(), {}, task, 3, first_order=False)
    assert end["first.weight"] is module.learnable()["net.first.weight"] or torch.equal(
        end["first.weight"], net.first.weight
    )
    assert not torch.equal(end["second.weight"], net.second.weight)
    grads, _, _ = module.meta_step(module.learnable(), {}, tasks, torch.tensor(0))
    assert grads["net.first.weight"].abs().sum() > 0  # the outer loop still learns it


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["nope.*"], r"model.adapt_only is \['nope\.\*'\], and nope\.\* matches no parameter that learns; expected "
                     r"patterns of first\.weight, first\.bias, second\.weight, second\.bias"),
        ([], r"model.adapt_only is an empty list; expected names of parameters, or null for all"),
    ],
)  # fmt: skip
def test_patterns_that_name_nothing_are_refused(patterns: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MAMLModule(FACES.net(), adapt_only=patterns)
