"""What a report from Python says about the weights, the batch norm and the time."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from torch import nn

from meta_lightning import MAMLModule, load_run
from meta_lightning.callbacks import Checkpoints, MetaStepProgress, TestReport, test_report
from meta_lightning.data import EpisodicDataModule, Sinusoid
from meta_lightning.functional import norm
from meta_lightning.nets import MLP
from meta_lightning.reporting.report import Report

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")  # as it should, when a module trains on

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "max_epochs": -1, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0,
}  # fmt: skip


def module() -> MAMLModule:
    return MAMLModule(MLP(1, 1, [8]), inner_steps=1)


def data(**options: int) -> EpisodicDataModule:
    return EpisodicDataModule(Sinusoid(), shots=5, queries=5, val_tasks=2, test_tasks=4, **options)


def trainer(steps: int = 3) -> Trainer:
    return Trainer(
        max_steps=steps,
        val_check_interval=steps,
        callbacks=[TestReport(), Checkpoints()],
        default_root_dir=".",
        **QUIET,
    )


def measured(trainer: Trainer, *arguments: object, **options: object) -> Report:
    trainer.test(*arguments, verbose=False, **options)
    (callback,) = [callback for callback in trainer.callbacks if isinstance(callback, TestReport)]
    assert callback.report is not None
    return callback.report


def card() -> str:
    (path,) = Path().rglob("model_card.md")
    return path.read_text()


def test_the_weights_in_memory_are_told_with_their_training() -> None:
    one, episodes, first = module(), data(), trainer()
    assert measured(first, one, episodes).checkpoint == "none: the weights in memory, with no meta-step taken"
    first.fit(one, episodes)
    report = measured(first, one, episodes)
    assert report.checkpoint == "the weights in memory after 3 meta-steps"
    assert report.trained_on == report.source
    assert "untrained net" not in report.baselines  # it is not in memory any more
    assert "- meta-steps: `3`" in card()
    assert "- data: `sinusoid" in card()

    second = trainer(2)  # knows nothing of the first
    assert measured(second, one, episodes).checkpoint == "the weights in memory after 3 meta-steps"
    second.fit(one, episodes)
    assert measured(second, one, episodes).checkpoint == "the weights in memory after 5 meta-steps"
    path = "checkpoints/best.ckpt"
    assert measured(second, module(), episodes, ckpt_path=path).checkpoint.endswith(path)


def test_a_module_of_a_checkpoint_says_which_one() -> None:
    one, episodes = module(), data()
    first = trainer()
    first.fit(one, episodes)
    path = "checkpoints/last.ckpt"
    loaded = MAMLModule.load_from_checkpoint(path, net=MLP(1, 1, [8]))
    expected = f"the weights in memory after 3 meta-steps, loaded from {path}"
    assert measured(trainer(), loaded, episodes).checkpoint == expected
    again = trainer(1)
    again.fit(loaded, episodes)
    assert measured(again, loaded, episodes).checkpoint == "the weights in memory after 4 meta-steps"


def test_what_stands_beside_a_checkpoint_is_no_trained_net() -> None:
    """The weights in memory before a checkpoint is loaded are a baseline only if they are untrained."""
    one, episodes, first = module(), data(), trainer()
    first.fit(one, episodes)
    results = measured(first, one, episodes, ckpt_path="checkpoints/best.ckpt").baselines
    assert "untrained net" not in results


def test_a_resumed_run_counts_its_meta_steps_once() -> None:
    one, episodes = module(), data()
    trainer(3).fit(one, episodes)
    again, resumed = trainer(5), module()
    again.fit(resumed, episodes, ckpt_path="checkpoints/last.ckpt")
    assert measured(again, resumed, episodes).checkpoint == "the weights in memory after 5 meta-steps"


def test_a_run_of_the_command_line_is_named(tmp_path: Path, repository: Path) -> None:
    from meta_lightning.cli import main

    options = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.val_tasks=2", "--data.test_tasks=3"]
    config = ["--config", str(repository / "configs/sinusoid/maml.yaml"), "--trainer.accelerator=cpu", *options]
    assert main(["fit", *config]) == 0
    run = load_run("logs/sinusoid/maml/version_0")
    found = measured(trainer(), run.module, run.data).checkpoint
    assert found == (
        "the weights in memory after 2 meta-steps, loaded from logs/sinusoid/maml/version_0/checkpoints/best.ckpt"
    )


@pytest.mark.parametrize(
    ("layers", "protocol", "expected", "others"),
    [
        ([], "transductive", "none", []),
        ([nn.BatchNorm1d(4)], "inductive", "inductive", ["transductive", "support_plus_one"]),
        ([nn.BatchNorm1d(4)], "running", "running", []),
        ([nn.BatchNorm1d(4).eval()], "transductive", "running", []),
        ([nn.BatchNorm1d(4, track_running_stats=False)], "running", "transductive", ["inductive", "support_plus_one"]),
        ([nn.LayerNorm(4)], "transductive", "none", []),
    ],
    ids=["none", "batch norm", "running", "frozen", "without statistics", "layer norm"],
)
def test_the_protocol_is_the_one_that_the_net_follows(layers, protocol, expected, others) -> None:
    net = nn.Sequential(nn.Linear(1, 4), *layers, nn.Linear(4, 1))
    report = measured(trainer(), MAMLModule(net, batch_norm=protocol, inner_steps=1), data())
    assert report.batch_norm == expected
    assert [*report.by_batch_norm] == ([expected, *others] if others else [])
    assert norm.in_use(net, protocol) == expected
    assert ("(no batch norm" in card()) == (expected == "none")


def test_the_time_is_that_of_the_whole_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that take long to draw, of which adaptation knows nothing."""
    import time

    draw = EpisodicDataModule.on_after_batch_transfer

    def slowly(self: EpisodicDataModule, *arguments: object) -> object:
        time.sleep(0.1)
        return draw(self, *arguments)

    monkeypatch.setattr(EpisodicDataModule, "on_after_batch_transfer", slowly)
    report = measured(trainer(), module(), data(eval_batch_size=1))
    assert report.seconds > 0.4
    assert report.seconds_per_task * 4 < report.seconds


def test_the_progress_counts_the_other_protocols_and_the_untrained_net() -> None:
    class Counts(MetaStepProgress):
        def on_test_end(self, *_: object) -> None:
            assert self._evaluation is not None
            _, _, done, total = self._evaluation
            counts.append((done, total))

    counts: list[tuple[int, float]] = []
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    trained = MAMLModule(net, inner_steps=1)
    trainer().fit(trained, data())
    for callbacks, measurements in (([], 1), ([TestReport(baselines=False)], 3), ([TestReport()], 4)):
        running = Trainer(callbacks=[Counts(), Checkpoints(), *callbacks], **{**QUIET, "enable_progress_bar": True})
        net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        fresh = MAMLModule(net, inner_steps=1)
        running.test(fresh, data(eval_batch_size=1), ckpt_path="checkpoints/last.ckpt", verbose=False)
        assert counts.pop() == (4 * measurements, 4 * measurements)


def test_the_time_per_task_is_that_of_all_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    evaluate = MAMLModule.evaluate

    def slowly(self: MAMLModule, *arguments: object, **options: object) -> object:
        time.sleep(0.1)
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(MAMLModule, "evaluate", slowly)
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    report = measured(trainer(), MAMLModule(net, inner_steps=1), data(eval_batch_size=1))
    assert 0.3 < report.seconds_per_task < report.seconds / 4


def test_the_folder_of_the_checkpoint_is_tried_before_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trainer()
    first.fit(module(), data())
    kept = Path("kept/checkpoints")
    kept.mkdir(parents=True)
    Path("checkpoints/last.ckpt").rename(kept / "last.ckpt")
    tried: list[Path] = []
    monkeypatch.setattr(test_report, "check_writable", lambda paths: tried.extend(paths))
    monkeypatch.setattr(TestReport, "on_test_batch_start", lambda *_, **__: tried or pytest.fail("tested first"))
    trainer().test(module(), data(), ckpt_path=kept / "last.ckpt", verbose=False)
    assert {path.parent for path in tried} == {Path("kept")}
