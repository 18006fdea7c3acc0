"""What a meta-step must not do: wait for the device more than once, keep a graph, or log between intervals."""

import traceback
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from meta_lightning.functional.tasks import Loop

from ..algorithms.cases import CASES, Case
from ..algorithms.test_conformance import trainer

# Operations that hand a value of a tensor to Python, or whose result has a size that depends on values.
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "unique", "masked_select", "equal")


class Waits(TorchDispatchMode):
    """Counts operations that would wait for a device; the optimizer's own step count lies on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in WAITS and not any("torch/optim/" in frame.filename for frame in traceback.extract_stack()):
            self.counted[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_meta_step_waits_once_for_the_check_of_its_values(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, waits = case.make(case.problem.net()), Waits()
    step = module.training_step

    def counted(*arguments: Any) -> None:
        with waits:
            step(*arguments)

    monkeypatch.setattr(module, "training_step", counted)
    trainer(5).fit(module, datamodule=case.problem.data())
    assert waits.counted == {"_local_scalar_dense": 5}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("loop", ["vmap", "loop"])
def test_what_a_meta_step_returns_holds_no_graph(case: Case, loop: Loop) -> None:
    module = case.make(case.problem.net(), task_loop=loop)
    buffers, step = dict(module.named_buffers()), torch.tensor(0)
    for found in module.meta_step(module.learnable(), buffers, case.problem.tasks(), step):
        assert all(value.grad_fn is None and not value.requires_grad for value in found.values())


def test_it_logs_at_the_interval_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module, logged = CASES[0].make(CASES[0].problem.net()), Counter[int]()
    for name in ("log", "log_dict"):
        monkeypatch.setattr(module, name, lambda *_, **__: logged.update([module.global_step]))
    run = trainer(7)
    run.log_every_n_steps, run.limit_val_batches = 3, 0
    run.fit(module, datamodule=CASES[0].problem.data())
    assert {*logged} == {3, 6}


def test_it_waits_less_where_the_check_is_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    module, waits = CASES[0].make(CASES[0].problem.net(), check_finite_every=2), Waits()
    step = module.training_step

    def counted(*arguments: Any) -> None:
        with waits:
            step(*arguments)

    monkeypatch.setattr(module, "training_step", counted)
    trainer(4).fit(module, datamodule=CASES[0].problem.data())
    assert waits.counted == {"_local_scalar_dense": 2}
