"""In lower precision the inner loop stays in float32, where a step is not lost to rounding."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from meta_lightning import ConfigError
from meta_lightning.algorithms import MAMLModule, MetaModule, MetaSGDModule, ReptileModule

from ..algorithms.problems import SINUSOIDS


class Recorder(nn.Module):
    """Keeps the precision of its layer's outputs, in the order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SINUSOIDS.net()
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        self.seen.append(out.dtype)
        return out


def fit(module: MetaModule, precision: str) -> None:
    Trainer(
        max_steps=3, max_epochs=-1, precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=Path.cwd(),
    ).fit(module, datamodule=SINUSOIDS.data())  # fmt: skip


@pytest.mark.parametrize(("inner_autocast", "inner"), [(False, torch.float32), (True, torch.bfloat16)])
def test_bf16_reaches_the_inner_loop_only_when_asked(inner_autocast: bool, inner: torch.dtype) -> None:
    net = Recorder()
    fit(MAMLModule(net, inner_steps=2, task_loop="loop", inner_autocast=inner_autocast), "bf16-mixed")
    assert net.seen[:3] == [inner, inner, torch.bfloat16]  # two inner steps, then the queries
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("make", [MAMLModule, ReptileModule, MetaSGDModule])
def test_precisions_that_train(make: type[MetaModule], precision: str) -> None:
    torch.manual_seed(0)
    module = make(SINUSOIDS.net())
    before = [parameter.clone() for parameter in module.net.parameters()]
    fit(module, precision)
    assert all(torch.isfinite(parameter).all() for parameter in module.net.parameters())
    assert not all(torch.equal(one, other) for one, other in zip(before, module.net.parameters(), strict=True))


def test_half_precision_is_refused_from_python_too() -> None:
    with pytest.raises(
        ConfigError, match=r"^trainer.precision is 16-true; inner gradients .*: use bf16-mixed or 32-true$"
    ):
        fit(MAMLModule(SINUSOIDS.net()), "16-true")


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_strategies_that_split_parameters_are_refused_from_python_too(name: str) -> None:
    stand_in = type(name, (SingleDeviceStrategy,), {})()  # the true one asks for a GPU before anything else
    running = Trainer(strategy=stand_in, accelerator="cpu", max_epochs=-1, logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match=rf"^trainer\.strategy is {name}; it splits parameters .*: use ddp$"):
        running.fit(MAMLModule(SINUSOIDS.net()), datamodule=SINUSOIDS.data())
