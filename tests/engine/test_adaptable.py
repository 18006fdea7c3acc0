"""What adaptation to a support set gives: a plain net that predicts as the method itself does."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning import MAMLModule, MetaModule, MetaSGDModule, ProtoNetModule, ReptileModule
from meta_lightning.engine.adaptable import adapt_to
from meta_lightning.engine.adapted import AdaptedNet, WholeMethod
from meta_lightning.errors import ConfigError
from meta_lightning.functional import GaussianLikelihood
from meta_lightning.functional.adapt import last
from meta_lightning.functional.params import strip_prefix
from meta_lightning.functional.prototypes import nearness
from meta_lightning.functional.support_norm import SupportNorm
from meta_lightning.nets import Conv4
from meta_lightning.types import Buffers, Examples, Objective, Params, Prediction, Task

from ..algorithms.cases import CASES, Case
from ..algorithms.problems import FACES, SINUSOIDS, single
from ..algorithms.test_conformance import trainer
from ..seams.test_own_algorithm import SignedMAML

NORMED: dict[str, Any] = {
    "maml": lambda net: MAMLModule(net, inner_lr=0.5, inner_steps=3),
    "head alone": lambda net: MAMLModule(net, inner_lr=0.5, inner_steps=3, adapt_only=["head.*"]),
    "meta-sgd": lambda net: MetaSGDModule(net, inner_steps=2),
    "reptile, adam": lambda net: ReptileModule(net, inner_lr=0.01, inner_batch_size=4),
    "own trajectory": lambda net: SignedMAML(net, inner_steps=2, step_size=0.05),
    "protonet": lambda net: ProtoNetModule(Conv4(width=6, downsample="max_pool", image_size=16)),
    "own curve": lambda net: Nearest(net),
    "own curve in steps": lambda net: Sharp(net, inner_lr=0.5, inner_steps=3),
}


class Nearest(MetaModule):
    """States only an objective and a curve: the class of the nearest example, in the net's outputs."""

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        yield Prediction(self._scores, strip_prefix(params, "net."), task)

    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> Objective:
        metrics = self.metrics(next(self.curve(params, buffers, task))(), task.query.y)
        return Objective(metrics["loss"], metrics)

    def _scores(self, params: Params, task: Task) -> Tensor:
        queries, points = self.predict(params, task), self.predict(params, task._replace(query=task.support))
        near = nearness(queries, points, "euclidean")
        others = [(task.support.y != label)[None] for label in range(3)]
        return torch.stack([near.masked_fill(other, -torch.inf).max(1).values for other in others], 1)


class Sharp(MAMLModule):
    """MAML with a prediction of its own."""

    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        for adapted in super().curve(params, buffers, task):
            yield Prediction(self._sharp, adapted.params, task)

    def _sharp(self, params: Params, task: Task) -> Tensor:
        return 2 * self.predict(params, task)


def episodes(count: int = 4) -> Task:
    """Classification tasks of three classes, with three examples and five queries of each."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(count, 3, 1, 1, 16, 16, generator=generator)

    def part(examples: int) -> Examples:
        x = kinds + torch.randn(count, 3, examples, 1, 16, 16, generator=generator)
        return Examples(x.flatten(1, 2), torch.arange(3).repeat_interleave(examples).repeat(count, 1))

    return Task(part(3), part(5), torch.arange(count), torch.arange(count) + 7)


def itself(module: MetaModule, task: Task) -> Tensor:
    """What the method predicts for the queries of a task under inductive batch norm, in its own words."""
    module.eval().batch_norm = "inductive"
    with torch.no_grad():
        return last(module.curve(module.learnable(), dict(module.named_buffers()), task))()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_adapted_net_predicts_as_the_method_does(case: Case) -> None:
    torch.manual_seed(0)
    module, tasks = case.make(case.problem.net()), case.problem.tasks()
    for number in range(2):
        task = single(tasks, number)
        net = module.adapt(*task.support)
        expected = itself(module, task)[:, : len(net.class_names) or None]
        torch.testing.assert_close(net(task.query.x), expected, rtol=1e-5, atol=1e-6)
        assert len(net.class_names) == (3 if case.problem is FACES else 0)


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("protocol", ["transductive", "inductive"])
def test_adapt_and_predict_measure_what_an_evaluation_measures(name: str, protocol: Any) -> None:
    torch.manual_seed(0)
    module, tasks = NORMED[name](Conv4(3, width=6, downsample="max_pool", image_size=16)), episodes()
    module.batch_norm = protocol
    accuracies, losses = [], []
    for number in range(4):
        task = single(tasks, number)
        net = adapt_to(module, *task.support, key=task.key).net
        out = net(task.query.x)
        accuracies.append((out.argmax(1) == task.query.y).float().mean())
        losses.append(F.cross_entropy(out, task.query.y))
        alone = torch.cat([net(x[None]) for x in task.query.x])
        torch.testing.assert_close(alone, out, rtol=0, atol=1e-5)
    assert module.batch_norm == protocol
    module.eval().batch_norm = "inductive"
    measured = module.evaluate(tasks, every_step=False)
    assert torch.equal(torch.stack(accuracies), measured["accuracy"][:, -1])
    torch.testing.assert_close(torch.stack(losses), measured["loss"][:, -1], rtol=0, atol=1e-6)


def test_inductive_statistics_are_those_of_the_support_set() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2, eps=1e-12), nn.Linear(2, 2))
    x, queries = torch.randn(6, 2), torch.randn(4, 2)
    adapted = MAMLModule(net, inner_lr=0.1).adapt(x, [0, 1] * 3, steps=0)
    expected = net[1]((queries - x.mean(0)) / x.std(0, correction=0))
    torch.testing.assert_close(adapted(queries), expected.detach())


class Twice(nn.Module):
    """Uses one batch norm in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.again, self.layer = nn.BatchNorm1d(4), None, nn.Linear(4, 2)
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.again(torch.tanh(3 * self.norm(x)) + x))


def test_a_layer_that_is_used_twice_has_statistics_of_each_use() -> None:
    torch.manual_seed(0)
    module = MAMLModule(Twice(), inner_lr=0.1, inner_steps=2)
    task = Task(
        Examples(torch.randn(6, 4), torch.arange(2).repeat(3)),
        Examples(torch.randn(5, 4), None),
        *[torch.tensor(0)] * 2,
    )
    net = module.adapt(*task.support)
    with pytest.raises(RuntimeError):  # after the first use of the layer
        net.net(torch.randn(5, 4).requires_grad_().expand(2, 5, 4))
    for _ in range(2):
        torch.testing.assert_close(net(task.query.x), itself(module, task))
    assert len(net.net.norm.mean) == 2
    assert net.net.again is net.net.norm


@pytest.mark.parametrize("inside", [True, False])
def test_it_works_in_inference_mode_and_what_it_makes_outside_of_it(inside: bool) -> None:
    torch.manual_seed(0)
    module, task = NORMED["maml"](Conv4(3, width=6)), single(episodes(), 0)
    expected = module.adapt(*task.support)(task.query.x)
    with torch.inference_mode(inside):
        x = task.support.x.clone()
        net = module.adapt(x, task.support.y)
        assert torch.equal(net(task.query.x), expected)
    assert torch.equal(net(task.query.x), expected)
    net.requires_grad_()
    net(task.query.x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_module_stays_as_it_is_also_while_it_is_trained() -> None:
    torch.manual_seed(0)
    module, seen = MAMLModule(FACES.net(dropout=0.5), inner_lr=0.5), []

    class Adapts(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            module.net.first.eval()
            before = {name: value.clone() for name, value in module.state_dict().items()}
            task = single(FACES.tasks(), 0)
            net = module.adapt(*task.support, steps=4)
            seen.append(net(task.query.x))
            assert torch.equal(seen[-1], net(task.query.x))  # dropout is off
            assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
            assert (module.net.first.training, module.net.second.training) == (False, True)
            assert module.eval_inner_steps == 1
            assert not net.training

    running = trainer(2)
    running.callbacks.append(Adapts())
    running.fit(module, datamodule=FACES.data())
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_an_adapted_net_keeps_nothing_of_the_module_and_no_graph() -> None:
    task = single(FACES.tasks(), 0)
    module = MAMLModule(FACES.net(), inner_lr=0.5)
    net = module.adapt(*task.support)
    before = net(task.query.x)
    assert not before.requires_grad
    with torch.no_grad():
        module.net.first.weight.zero_()
    assert torch.equal(net(task.query.x), before)
    own = {parameter.data_ptr() for parameter in module.parameters()}
    assert not own & {parameter.data_ptr() for parameter in net.parameters()}
    assert not [name for name, part in net.named_modules() if isinstance(part, MetaModule)]


def test_devices_and_types_follow_the_net() -> None:
    module, task = MAMLModule(FACES.net().double(), inner_lr=0.5), single(FACES.tasks(), 0)
    net = module.adapt(task.support.x.numpy(), task.support.y.tolist())
    assert net(task.query.x).dtype == torch.float64
    if torch.cuda.is_available():
        on_gpu = module.cuda().adapt(*task.support)
        assert next(on_gpu.parameters()).is_cuda
        torch.testing.assert_close(on_gpu(task.query.x), net(task.query.x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["b", "a", "b", "c"], None, ("a", "b", "c")),
        ([10, 9, 10, 2], None, (2, 9, 10)),
        (torch.tensor([1, 0, 1, 2]), ["x", "y", "z"], ("x", "y", "z")),
        (torch.tensor([True, False, True, False]), None, (0, 1)),
        ([10, "a", "9", 9], None, (9, 10, "9", "a")),
    ],
)  # fmt: skip
def test_classes_are_named_in_sorted_order(labels: Any, names: Any, expected: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    x = 5 * torch.eye(4)
    net = ProtoNetModule(nn.Identity()).adapt(x, labels, class_names=names)
    assert net.class_names == expected
    wanted = [names[label] for label in labels] if names else [*labels]
    assert [net.class_names[answer] for answer in net(x).argmax(1)] == wanted


def test_outputs_of_classes_that_are_not_there_are_left_out() -> None:
    net = MAMLModule(nn.Linear(4, 5), inner_lr=0.1).adapt(torch.randn(4, 4), ["no", "yes"] * 2)
    assert net(torch.randn(7, 4)).shape == (7, 2)


def test_a_loss_that_adapts_too_is_left_behind() -> None:
    torch.manual_seed(0)
    task = single(SINUSOIDS.tasks(), 0)
    module = MAMLModule(SINUSOIDS.net(), inner_lr=0.1, inner_steps=3, loss=GaussianLikelihood(std=0.7), adapt_loss=True)
    adaptation = adapt_to(module, *task.support, measure=True)
    torch.testing.assert_close(adaptation.net(task.query.x), itself(module, task))
    assert not [name for name in adaptation.net.state_dict() if "loss" in name]
    assert len(adaptation.metrics) == 4


def test_the_support_loss_is_measured_after_each_step() -> None:
    torch.manual_seed(0)
    task = single(episodes(), 0)
    module = MAMLModule(Conv4(3, width=6), inner_lr=0.5, eval_inner_steps=7)
    adaptation = adapt_to(module, *task.support, steps=3, measure=True)
    assert [sorted(measured) for measured in adaptation.metrics] == [["accuracy", "loss"]] * 4
    out = adaptation.net(task.support.x)
    assert adaptation.metrics[-1]["loss"] == pytest.approx(F.cross_entropy(out, task.support.y).item(), abs=1e-6)
    untouched = module.adapt(*task.support, steps=0)(task.support.x)
    assert adaptation.metrics[0]["loss"] == pytest.approx(F.cross_entropy(untouched, task.support.y).item(), abs=1e-6)


def test_regression_takes_a_list_of_values() -> None:
    module = MAMLModule(SINUSOIDS.net(), inner_lr=0.1)
    task = single(SINUSOIDS.tasks(), 0)
    net = module.adapt(task.support.x, task.support.y[:, 0].tolist())
    assert net(task.query.x).shape == (7, 1)
    assert net.class_names == ()


def test_a_method_without_a_head_predicts_by_its_own_curve() -> None:
    task = single(episodes(), 0)
    net = Nearest(Conv4(3, width=6)).adapt(*task.support)
    assert isinstance(net.net, WholeMethod)
    out = net(task.query.x)
    torch.testing.assert_close(net.double()(task.query.x.double()).float(), out, rtol=1e-4, atol=1e-4)


def test_methods_with_a_net_are_plain_nets() -> None:
    task = single(episodes(), 0)
    for name in ("maml", "meta-sgd", "reptile, adam", "own trajectory", "protonet"):
        net = NORMED[name](Conv4(3, width=6)).adapt(*task.support)
        assert isinstance(net, AdaptedNet)
        assert not [part for part in net.modules() if isinstance(part, WholeMethod)]
        assert [part for part in net.modules() if isinstance(part, SupportNorm)]


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(4, 4), ["a"] * 4, {}, r"^the support set has one class \(a\); expected examples of 2"),
        (torch.zeros(3, 4), [0, 1], {}, "^the support set has 3 inputs and 2 targets; expected one target for each"),
        (torch.zeros(0, 4), [], {}, r"^the support set has inputs of \[0\] examples; expected equally many, 1 or more"),
        (torch.full((2, 4), torch.nan), [0, 1], {}, "^the support set holds NaN or infinite numbers; expected finite"),
        (torch.zeros(4, 4), [0, 1, 2, 3], {}, "^the support set has 4 classes, but model.net has 3 outputs.*"
         "leave classes out, train with data.ways=4, or train a ProtoNetModule"),
        (torch.zeros(2, 7), [0, 1], {}, r"^model.net takes no inputs of shape \[2, 7\]: .*; expected inputs as"),
        (torch.zeros(2, 4), [0.5, 1.0], {}, r"^the targets have the shape \[2, 1\], but model.net gives \[3\] for an"),
        (torch.zeros(2, 4), [0, 1], {"steps": -1}, "^steps is -1; expected 0 or more"),
        (torch.zeros(2, 4), [0, 1], {"class_names": ["a"]}, r"^class_names are \['a'\]; expected distinct names"),
        (torch.zeros(2, 4), [0.0, 1.0], {"class_names": ["a", "b"]}, "^class_names are given, but the targets are"),
        (torch.zeros(2, 4), torch.zeros(2, 1, dtype=torch.int64), {}, "^the support set's classes have the shape"),
        (torch.full((2, 4), 1e30), [0, 1], {}, "^adaptation diverged: the adapted net holds NaN or infinite numbers"),
    ],
)  # fmt: skip
def test_a_support_set_that_does_not_fit_is_refused(x: Any, y: Any, options: Any, message: str) -> None:
    module = MAMLModule(nn.Linear(4, 3), inner_lr=1e30)
    with pytest.raises(ConfigError, match=message):
        module.adapt(x, y, **options)


def test_steps_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"^steps is 3, but ProtoNetModule has no model"):
        ProtoNetModule(nn.Identity()).adapt(torch.eye(2), [0, 1], steps=3)
