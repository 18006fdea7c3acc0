"""Inputs of several parts, and queries without targets, on every path that a task takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from meta_lightning.algorithms import MAMLModule, MetaModule, ProtoNetModule, ReptileModule
from meta_lightning.callbacks import AdaptationPlots, TestReport
from meta_lightning.checks.gradient import check_gradient
from meta_lightning.checks.net import check_net
from meta_lightning.data import EpisodicDataModule, Source
from meta_lightning.data.episodes import draw
from meta_lightning.data.sources import ClassTable
from meta_lightning.errors import ConfigError
from meta_lightning.functional.tasks import Backend, map_tasks
from meta_lightning.types import EpisodeShape, Split, Task

from ..algorithms.test_conformance import flat, trainer

SHAPE = EpisodeShape(3, 2, 2)


class Masked(nn.Module):
    """Means of word vectors over a mask; one tensor of ids and mask together, or the two by name."""

    def __init__(self, out_features: int = 3) -> None:
        super().__init__()
        self.vectors = nn.Embedding(20, 6)
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)
        self.head = nn.Linear(6, out_features)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(self.head.weight.dtype)[..., None]
        mean = (self.vectors(ids) * weights).sum(-2) / weights.sum(-2)
        return self.head(torch.tanh(self.norm(mean)))


class Joined(nn.Module):
    """The same net for one tensor, ``[examples, 2, length]``."""

    def __init__(self, net: Masked) -> None:
        super().__init__()
        self.inside = net

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x[:, 0], x[:, 1])


class Words(Source):
    """Classes of made-up sentences, as one tensor or as a dict of two."""

    def __init__(self, parts: bool = True) -> None:
        self._parts = parts

    def prepare(self) -> None:
        pass

    def load(self, split: Split) -> ClassTable:
        generator = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
        ids = torch.randint(20, (8, 5, 4), generator=generator)
        mask = torch.ones_like(ids)
        mask[..., 3] = torch.randint(2, (8, 5), generator=generator)
        x = {"ids": ids, "mask": mask} if self._parts else torch.stack([ids, mask], 2)
        return ClassTable(x, [f"{split}{number}" for number in range(8)], split=split)

    def fingerprint(self) -> str:
        return f"words {self._parts}"


def tasks(parts: bool, count: int = 4) -> Task:
    return draw(Words(parts).load("train"), 0, "train", SHAPE, torch.arange(count))


def pair(make: Callable[[nn.Module], MetaModule]) -> tuple[MetaModule, MetaModule]:
    """One module for inputs of two parts, and one of the same weights for one tensor."""
    torch.manual_seed(0)
    one = make(Masked())
    torch.manual_seed(0)
    return one, make(Joined(Masked()))


MAKE = {
    "maml": lambda net, **options: MAMLModule(net, inner_lr=0.5, inner_steps=2, **options),
    # Without Adam, which would enlarge what a batch norm over two examples leaves of a gradient: rounding.
    "reptile": lambda net, **options: ReptileModule(
        net, inner_lr=0.1, inner_steps=3, inner_batch_size=2, inner_rule="sgd", **options
    ),
    "protonet": lambda net, **options: ProtoNetModule(net, **options),
}
every_method = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@every_method
@pytest.mark.parametrize("batch_norm", ["transductive", "inductive", "support_plus_one"])
@pytest.mark.parametrize("backend", [Backend(), Backend("vmap", 3), Backend("loop"), Backend("split")], ids=str)
def test_parts_give_what_one_tensor_gives(make: Any, backend: Backend, batch_norm: Any) -> None:
    results = []
    for module, parts in zip(pair(lambda net: make(net, batch_norm=batch_norm)), (True, False), strict=True):
        module.set_backend(backend)
        grads, _, metrics = module.meta_step(
            module.learnable(), dict(module.named_buffers()), tasks(parts), torch.tensor(0)
        )
        results.append([flat(grads), *metrics.values(), *module.eval().evaluate(tasks(parts)).values()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@every_method
@pytest.mark.parametrize("loop", ["vmap", "loop"])
def test_the_compiled_step_takes_parts(make: Any, loop: Any) -> None:
    torch.manual_seed(0)
    module = make(Masked())
    arguments = module.learnable(), dict(module.named_buffers()), tasks(parts=True), torch.tensor(0)
    expected = flat(module.meta_step(*arguments)[0])
    torch.compiler.reset()
    module.set_backend(Backend(loop), compiler="aot_eager")
    torch.testing.assert_close(flat(module.meta_step(*arguments)[0]), expected)


@every_method
def test_a_run_on_parts_is_checked_trained_and_tested(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    module = make(Masked())
    data = EpisodicDataModule(Words(), ways=3, shots=2, queries=2, meta_batch_size=2, val_tasks=4, test_tasks=4)
    data.prepare_data()
    data.setup("fit")
    assert "accuracy" in check_net(module, data.sample("fit"))
    check_gradient(module, data.sample("fit"))
    running = trainer(2)
    running.callbacks += [AdaptationPlots(), TestReport()]
    running.fit(module, datamodule=data)
    running.test(module, datamodule=data, verbose=False)
    assert "nearest class mean" not in capsys.readouterr().out  # ids are no points in space


def test_inputs_that_the_net_does_not_take_are_named_part_by_part() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(tokens)

    with pytest.raises(
        ConfigError, match=r"model.net takes no inputs of shape \{'ids': \[6, 4\], 'mask': \[6, 4\]\}: .*ids"
    ):
        check_net(MAMLModule(Other()), tree_map(lambda tensor: tensor[:1], tasks(parts=True)))


@every_method
@pytest.mark.parametrize("parts", [True, False])
@pytest.mark.parametrize("backend", [Backend(), Backend("vmap", 3), Backend("loop"), Backend("split")], ids=str)
def test_queries_without_targets_are_predicted(make: Any, parts: bool, backend: Backend) -> None:
    torch.manual_seed(0)
    module = make(Masked() if parts else Joined(Masked())).eval()
    module.set_backend(backend)
    known = tasks(parts)
    unknown = known._replace(query=known.query._replace(y=None))
    params, buffers = module.learnable(), dict(module.named_buffers())

    def last(task: Task) -> Tensor:
        *_, end = module.curve(params, buffers, task)
        return end()

    predictions = map_tasks(last, unknown, backend)
    assert predictions.shape[:2] == (4, 6)
    torch.testing.assert_close(predictions, map_tasks(last, known, backend))
