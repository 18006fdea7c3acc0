import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_lightning import ConfigError
from meta_lightning.algorithms import MAMLModule, MetaSGDModule
from meta_lightning.callbacks import AdaptationPlots
from meta_lightning.nets import MLP

from .problems import SINUSOIDS
from .test_conformance import flat, meta_step


def test_every_entry_that_learns_has_a_rate_from_the_range() -> None:
    net = MLP(1, 1, [400])
    net[0].requires_grad_(requires_grad=False)
    module = MetaSGDModule(net, init_lr=(0.005, 0.1))
    rates = dict(module.rates.named_parameters())
    assert {name: rate.shape for name, rate in rates.items()} == {"2.weight": (1, 400), "2.bias": (1,)}
    assert 0.005 <= rates["2.weight"].min() < 0.01 < 0.095 < rates["2.weight"].max() <= 0.1
    assert {f"rates.{name}" for name in rates} <= module.learnable().keys() & module.state_dict().keys()


def test_with_one_rate_for_all_the_net_learns_as_in_maml() -> None:
    torch.manual_seed(0)
    ours = MetaSGDModule(SINUSOIDS.net(), init_lr=(0.1, 0.1), inner_steps=2)
    torch.manual_seed(0)
    maml = MAMLModule(SINUSOIDS.net(), inner_lr=0.1, inner_steps=2)
    by_maml = meta_step(maml, SINUSOIDS.tasks())[0]
    torch.testing.assert_close(meta_step(ours, SINUSOIDS.tasks())[0][: len(by_maml)], by_maml)


def test_rates_learn_and_may_become_negative() -> None:
    torch.manual_seed(0)
    optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731  # as the command line makes it
    module = MetaSGDModule(SINUSOIDS.net(), init_lr=(0.0, 1e-6), optimizer=optimizer)
    before = flat(dict(module.rates.named_parameters())).clone()
    data = SINUSOIDS.data()
    Trainer(max_steps=1, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0).fit(module, datamodule=data)  # fmt: skip
    after = flat(dict(module.rates.named_parameters()))
    assert (after != before).float().mean() > 0.9
    assert after.min() < 0


def test_the_rates_are_logged_as_histograms_at_each_validation() -> None:
    logger = TensorBoardLogger(".", name=None, version="run")
    module = MetaSGDModule(SINUSOIDS.net())
    Trainer(max_steps=4, max_epochs=-1, logger=logger, check_val_every_n_epoch=None, val_check_interval=2,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=AdaptationPlots()).fit(module, datamodule=SINUSOIDS.data())  # fmt: skip
    events = EventAccumulator("run", {"histograms": 0})
    events.Reload()
    assert {f"rates/{name}" for name, _ in module.rates.named_parameters()} == set(events.Tags()["histograms"])
    assert [event.step for event in events.Histograms("rates/first.weight")] == [2, 4]


@pytest.mark.parametrize(
    "wrong", [(0.1, 0.005), (0.0, float("inf")), (float("nan"), 1.0)], ids=["reversed", "infinite", "nan"]
)
def test_a_range_that_is_none_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(
        ConfigError, match=r"^model.init_lr is \[.*\]; expected the lower and the upper end of a range$"
    ):
        MetaSGDModule(SINUSOIDS.net(), init_lr=wrong)
