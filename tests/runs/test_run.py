"""From a run folder alone back to a working module and its data."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from meta_lightning import EpisodicDataModule, MAMLModule, MetaModule, ReptileModule, load_run
from meta_lightning.cli import main
from meta_lightning.errors import ConfigError
from meta_lightning.nets import MLP

from ..algorithms.problems import SINUSOIDS
from ..algorithms.test_conformance import trainer

SHORT = [
    "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--data.val_tasks=4", "--data.test_tasks=4",
    "--data.meta_batch_size=2", "--data.eval_batch_size=4", "--trainer.num_sanity_val_steps=0",
    "--figures.every_n_validations=0",
]  # fmt: skip
CONFIGS = ["sinusoid/maml", "sinusoid/reptile", "glyphs_5w1s/meta_sgd", "glyphs_5w1s/protonet"]
NET = """
import torch

class Theirs(torch.nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))

    def forward(self, x):
        return self.body(x)
"""


def fit(repository: Path, config: str, *more: str) -> Path:
    assert main(["fit", "--config", str(repository / f"configs/{config}.yaml"), *SHORT, *more]) == 0
    return Path("logs", config, "version_0")


def evaluated(module: MetaModule, data: EpisodicDataModule) -> torch.Tensor:
    data.prepare_data()
    data.setup("test")
    tasks = data.on_after_batch_transfer(data.draw("test", torch.arange(4)), 0)
    return module.evaluate(tasks)["loss"]


@pytest.mark.parametrize(
    "config", ["sinusoid/maml", "sinusoid/reptile", "glyphs_5w1s/meta_sgd", "glyphs_5w1s/protonet"]
)
def test_a_folder_alone_gives_back_module_and_data(repository: Path, config: str) -> None:
    folder = fit(repository, config, "--model.grad_clip=3")
    moved = Path("elsewhere")
    shutil.move(folder, moved)
    (moved / "config.yaml").unlink()
    run = load_run(moved)
    assert not run.module.training
    assert run.module.grad_clip == 3
    assert run.record.meta_steps == torch.load(moved / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert run.module.settings() == run.record.settings
    assert run.data.state_dict() == run.record.data
    saved = torch.load(moved / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in run.module.state_dict().items())
    assert evaluated(run.module, run.data).isfinite().all()
    last = load_run(moved / "checkpoints/last.ckpt")
    assert last.record.meta_steps == 4


def test_what_it_gives_can_be_trained_on(repository: Path) -> None:
    run = load_run(fit(repository, "sinusoid/maml", "--trainer.max_steps=2"))
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    running = trainer(2)
    running.fit(run.module.train(), datamodule=run.data)
    assert not torch.equal(before["net.0.weight"], run.module.net[0].weight)
    assert isinstance(running.optimizers[0], torch.optim.Adam)


def test_no_file_of_the_data_is_opened(repository: Path, omniglot_root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(omniglot_root, data)
    folder = fit(repository, "omniglot_5w1s/maml", f"--data.source.root={data}", "--data.source.download=false")
    shutil.rmtree(data)
    run = load_run(folder)
    assert run.module.net(torch.zeros(2, 1, 28, 28)).shape == (2, 5)
    with pytest.raises(ConfigError, match=r"no images_background\.zip in .*: set data\.source\.root"):
        run.data.prepare_data()


def test_a_net_of_the_users_is_found_by_its_path_or_the_error_says_where_to_look(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("their_nets.py").write_text(NET)
    monkeypatch.syspath_prepend(".")
    theirs = '--model.net={"class_path": "their_nets.Theirs", "init_args": {"width": 6}}'
    folder = fit(repository, "sinusoid/maml", theirs)
    assert load_run(folder).module.net.body[0].weight.shape == (6, 1)
    monkeypatch.delitem(sys.modules, "their_nets")
    Path("their_nets.py").rename("gone.py")
    with pytest.raises(
        ConfigError, match=r"^their_nets\.Theirs can't be imported \(No module named 'their_nets'\); run "
    ):
        load_run(folder)


def from_python() -> Path:
    module = MAMLModule(MLP(1, 1, [5]), inner_lr=0.03, inner_steps=2, first_order=True, grad_clip=1.5)
    running = trainer(2)
    running.fit(module, datamodule=SINUSOIDS.data())
    running.save_checkpoint("python.ckpt", weights_only=False)
    return Path("python.ckpt")


def test_a_net_made_in_python_has_to_be_given() -> None:
    path = from_python()
    said = (
        r"^python\.ckpt was trained from Python, so how its net is made is not known; pass it: "
        r"{}\.load_from_checkpoint\(path, net=net\)$"
    )
    with pytest.raises(ConfigError, match=said.format("MetaModule")):
        load_run(path)
    with pytest.raises(ConfigError, match=said.format("MAMLModule")):
        MAMLModule.load_from_checkpoint(path)
    for cls in (MAMLModule, MetaModule):
        module = cls.load_from_checkpoint(path, net=MLP(1, 1, [5]))
        assert (module.inner_lr, module.inner_steps, module.first_order, module.grad_clip) == (0.03, 2, True, 1.5)
        saved = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_another_net_or_another_algorithm_is_named() -> None:
    path = from_python()
    with pytest.raises(
        ConfigError, match=r"^python\.ckpt does not fit the module that was built for it: .*size mismatch"
    ):
        MAMLModule.load_from_checkpoint(path, net=MLP(1, 1, [6]))
    with pytest.raises(ConfigError, match=r"maml\.MAMLModule is not a ReptileModule; expected"):
        ReptileModule.load_from_checkpoint(path, net=MLP(1, 1, [5]))


def test_load_from_checkpoint_of_a_run_needs_nothing_and_takes_other_settings(repository: Path) -> None:
    path = fit(repository, "sinusoid/reptile") / "checkpoints/last.ckpt"
    module = ReptileModule.load_from_checkpoint(path)
    assert (module.inner_steps, module.inner_rule) == (5, "sgd")
    assert ReptileModule.load_from_checkpoint(path, eval_inner_steps=3).eval_inner_steps == 3
    other = ReptileModule.load_from_checkpoint(path, net=nn.Sequential(*module.net))
    assert isinstance(other.net, nn.Sequential)


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_folder_without_checkpoints_is_named(path: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{path} holds no checkpoints/best\.ckpt or last\.ckpt; expected a run folder"
    ):
        load_run(path)


def test_a_module_that_the_users_own_trainer_trained_keeps_its_settings() -> None:
    class Mine(MAMLModule):
        pass

    module = Mine(MLP(1, 1, [5]), inner_steps=3)
    running = Trainer(
        max_steps=1, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    running.fit(module, datamodule=SINUSOIDS.data())
    running.save_checkpoint("mine.ckpt", weights_only=False)
    # A class inside of a function has no path: its own class method knows it.
    assert Mine.load_from_checkpoint("mine.ckpt", net=MLP(1, 1, [5])).inner_steps == 3
