"""Where the settings of a command and those of its checkpoint differ, a line says so: for every key there is."""

from pathlib import Path
from typing import Any

import pytest

from meta_lightning.cli import main
from meta_lightning.cli.app import MetaCLI
from meta_lightning.runs.changes import differences

from .tiny import TINY

pytestmark = pytest.mark.filterwarnings("default")  # Lightning warns of short runs

# Another value than the run's for every key of the parser. The first ones are of the command and not of the run.
NOT_OF_A_RUN = {"config", "untrained", "ckpt_path", "weights_only"}
OTHER: dict[str, Any] = {
    "seed_everything": 3,
    "trainer.accelerator": "auto", "trainer.strategy": "ddp", "trainer.devices": 2, "trainer.num_nodes": 2,
    "trainer.precision": "64-true", "trainer.logger": False, "trainer.callbacks": "[LearningRateMonitor]",
    "trainer.fast_dev_run": True, "trainer.max_epochs": 7, "trainer.min_epochs": 7, "trainer.max_steps": 7,
    "trainer.min_steps": 1, "trainer.max_time": "00:00:01:00", "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1, "trainer.limit_test_batches": 1, "trainer.limit_predict_batches": 1,
    "trainer.overfit_batches": 1, "trainer.val_check_interval": 1, "trainer.check_val_every_n_epoch": 1,
    "trainer.num_sanity_val_steps": 0, "trainer.log_every_n_steps": 2, "trainer.enable_checkpointing": True,
    "trainer.enable_progress_bar": True, "trainer.enable_model_summary": True, "trainer.accumulate_grad_batches": 2,
    "trainer.gradient_clip_val": 1.0, "trainer.gradient_clip_algorithm": "norm", "trainer.deterministic": True,
    "trainer.benchmark": True, "trainer.inference_mode": False, "trainer.use_distributed_sampler": False,
    "trainer.profiler": "simple", "trainer.detect_anomaly": True, "trainer.barebones": True,
    "trainer.plugins": "[DoublePrecision]", "trainer.sync_batchnorm": True,
    "trainer.reload_dataloaders_every_n_epochs": 1, "trainer.default_root_dir": "elsewhere",
    "trainer.enable_autolog_hparams": False, "trainer.model_registry": "models",
    "data.source.amplitude": "[0.5, 2.0]", "data.shots": 3, "data.queries": 3, "data.ways": 2, "data.train_ways": 2,
    "data.train_shots": 3, "data.train_queries": 3, "data.meta_batch_size": 4, "data.eval_batch_size": 1,
    "data.val_tasks": 4, "data.test_tasks": 4, "data.seed": 1, "data.eval_seed": 1, "data.num_workers": 1,
    "data.device_cache": True, "data.episodes": "x.json",
    "checkpoint.monitor": "val/mse", "checkpoint.mode": "max",
    "report.all_batch_norms": False, "report.baselines": True, "report.name": "another",
    "figures.every_n_validations": 1, "figures.tasks": 3,
    "model.net.hidden": "[5]",
}  # fmt: skip

# Keys that a run of these lengths goes with, on a resume and on a test.
HARMLESS = [
    "trainer.max_steps", "trainer.limit_val_batches", "trainer.limit_test_batches", "trainer.val_check_interval",
    "trainer.num_sanity_val_steps", "trainer.log_every_n_steps", "trainer.deterministic", "trainer.inference_mode",
    "trainer.detect_anomaly", "trainer.default_root_dir", "trainer.use_distributed_sampler", "data.val_tasks",
    "data.test_tasks", "data.eval_batch_size", "data.eval_seed", "report.all_batch_norms", "report.baselines",
    "figures.every_n_validations", "figures.tasks",
]  # fmt: skip
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


class Parsed(MetaCLI):
    """Stops when the arguments are parsed; `plain` has the settings."""

    def __init__(self, arguments: list[str]) -> None:
        try:
            super().__init__(arguments)
        except InterruptedError:
            self.plain = self.plain_settings(self._settings)

    def before_instantiate_classes(self) -> None:
        raise InterruptedError


@pytest.fixture(autouse=True)
def _run_yaml() -> None:
    Path("run.yaml").write_text(TINY)


def others(values: dict[str, Any]) -> list[str]:
    return [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]


def another(value: Any) -> Any:
    return not value if isinstance(value, bool) else 9


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_every_key_of_the_parser_is_told(command: str) -> None:
    before = Parsed([command, "--config=run.yaml", *QUIET])
    sections = {name: value for name, value in before.plain.items() if isinstance(value, dict) and name != "model"}
    keys = {f"{name}.{key}" for name, section in sections.items() for key in section} | before.plain.keys()
    told = {key.partition(".amplitude")[0] for key in OTHER if not key.startswith("model.")}
    assert keys - sections.keys() - NOT_OF_A_RUN - {"model"} == told
    words = {
        "optimizer": "torch.optim.SGD",
        "lr_scheduler": "torch.optim.lr_scheduler.ConstantLR",
        "loss": "mse",
        "task_loop": "loop",
        "batch_norm": "inductive",
        "adapt_only": "[layers.*]",
    }
    model = {
        f"model.{key}": words.get(key, another(value)) for key, value in before.plain["model"]["init_args"].items()
    }
    given = OTHER | {key: value for key, value in model.items() if key != "model.net"}
    after = Parsed([command, "--config=run.yaml", *QUIET, *others(given)])
    assert {*differences(after.plain, before.plain)} == {*given}
    assert differences(before.plain, before.plain) == {}


def test_on_a_resume_and_on_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config=run.yaml", *QUIET]) == 0
    for command in ("test", "fit"):
        checkpoint = next(str(path) for path in Path().rglob("last.ckpt"))
        capsys.readouterr()
        arguments = [command, "--config=run.yaml", *QUIET, f"--ckpt_path={checkpoint}"]
        if command == "test":
            assert main(arguments) == 0
            assert "in the checkpoint" not in capsys.readouterr().out
        assert main([*arguments, *others({key: OTHER[key] for key in HARMLESS}), "--model.eval_inner_steps=3"]) == 0
        notes = [
            line for line in capsys.readouterr().out.splitlines() if line.endswith("the command line and YAML win")
        ]
        assert sorted(line.split(" is ")[0] for line in notes) == sorted(
            f"Note: {key}" for key in [*HARMLESS, "model.eval_inner_steps"]
        )
        assert (
            "Note: trainer.limit_val_batches is 1 here, null in the checkpoint: the command line and YAML win" in notes
        )


@pytest.mark.parametrize(
    ("now", "then", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, {"a": (1, 1.0)}),
        ({"a": True}, {"a": 1}, {"a": (True, 1)}),
        ({"a": {"x": 1}}, {"a": {}}, {"a.x": (1, "absent")}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"a": ([1, 2], [1, 3])}),
        ({"a": None}, {"a": {"class_path": "b.C"}}, {"a": (None, {"class_path": "b.C"})}),
        ({"a": {"class_path": "b.C"}}, {"a": {"class_path": "b.C", "init_args": None}}, {}),
        ({"a": {"class_path": "b.C", "dict_kwargs": {"w": 2}}}, {"a": {"class_path": "b.C"}}, {"a.w": (2, "absent")}),
        (
            {"a": [{"class_path": "b.C", "init_args": {"w": 2}}]},
            {"a": [{"class_path": "b.C", "init_args": {"w": 3}}]},
            {"a[0].w": (2, 3)},
        ),
        ({"ckpt_path": "x", "config": ["y"]}, {}, {}),
    ],
)
def test_values_are_compared_key_by_key(now: Any, then: Any, expected: Any) -> None:
    assert differences(now, then) == expected
