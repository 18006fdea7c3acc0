import pytest
import torch
from torch import nn

from meta_lightning import ConfigError, EpisodicDataModule
from meta_lightning.algorithms import ProtoNetModule
from meta_lightning.checks.net import check_net

from .problems import FACES, SINUSOIDS
from .test_conformance import trainer


def test_it_trains_at_more_ways_than_it_is_tested_at() -> None:
    torch.manual_seed(0)
    module = ProtoNetModule(FACES.net(hidden=16), optimizer=lambda params: torch.optim.Adam(params, lr=1e-2))
    data = EpisodicDataModule(
        FACES.source, ways=3, shots=1, queries=3, train_ways=10, train_shots=2, meta_batch_size=1, val_tasks=4
    )
    before = module.evaluate(FACES.tasks(64))["accuracy"].mean()
    trainer(60).fit(module, datamodule=data)
    assert module.evaluate(FACES.tasks(64))["accuracy"].mean() > before


def test_labels_without_support_get_no_share() -> None:
    module, tasks = ProtoNetModule(FACES.net()), FACES.tasks(1)
    (predict,) = module.curve(module.learnable(), {}, type(tasks)(*map(first, tasks)))
    scores = predict()
    assert scores.shape == (6, 6)  # room for as many classes as there are support examples
    assert torch.isfinite(scores[:, :3]).all()
    assert torch.equal(scores.softmax(1)[:, 3:], torch.zeros(6, 3))


def first(part: object) -> object:
    return part[0] if isinstance(part, torch.Tensor) else type(part)(*(tensor[0] for tensor in part))


def test_features_of_any_shape_and_width_are_points() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh())
    assert module_accuracy(ProtoNetModule(net)).shape == (4, 1)


def module_accuracy(module: ProtoNetModule) -> torch.Tensor:
    return module.evaluate(FACES.tasks())["accuracy"]


def test_nothing_is_called_before_adaptation() -> None:
    assert check_net(ProtoNetModule(FACES.net()), FACES.tasks(1)) == ["loss", "accuracy"]
    running = trainer(2)
    running.fit(ProtoNetModule(FACES.net()), datamodule=FACES.data())
    assert {"val/loss", "val/accuracy"} <= running.callback_metrics.keys()
    assert not [name for name in running.callback_metrics if name.endswith("_before")]


def test_values_to_regress_are_refused() -> None:
    with pytest.raises(ConfigError, match="classifies, but the targets are values; expected a source of classes"):
        check_net(ProtoNetModule(SINUSOIDS.net()), SINUSOIDS.tasks(1))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match=f"^model.scale is {scale}; expected a finite number above 0$"):
        ProtoNetModule(FACES.net(), scale=scale)
