"""What a person gets wrong: exit code 2, a line or two that mend it, and nothing written."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from meta_lightning.cli import main
from meta_lightning.errors import ConfigError

from .test_cli import RUN, SHORT

SINUSOID = "configs/sinusoid/maml.yaml"
OMNIGLOT = "configs/omniglot_5w1s/maml.yaml"
CPUS = os.cpu_count() or 1


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must be refused; returns its message."""
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (message,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert captured.err[captured.err.index(message) :].count("\n") <= 2
    assert "Traceback" not in captured.err
    assert sorted(Path.cwd().rglob("*")) == before, "something was written"
    return message.removeprefix("error: ")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--model.inner_lrr=0.1"], "there is no key model.inner_lrr; did you mean model.inner_lr?"),
        (["--trainer.max_stepz=1"], "there is no key trainer.max_stepz; did you mean trainer.max_steps?"),
        (["--data.shotz=1"], "there is no key data.shotz; did you mean data.shots?"),
        (["--model.net.hiddn=[3]"], "there is no key model.net.hiddn; did you mean model.net.hidden?"),
        (["--model.inner_lr=abc"], "model.inner_lr is abc; expected float"),
        (["--data.shots=x"], "data.shots is x; expected int"),
        (["--model.batch_norm=foo"],
         "model.batch_norm is foo; expected 'transductive' or 'inductive' or 'support_plus_one' or 'running'"),
        (["--model=MAMLModul"],
         "model: there is no class MAMLModul; expected one of "
         "MAMLModule, MetaSGDModule, ProtoNetModule, ReptileModule, or the dotted path of a class"),
        (["--model.net=Convv4"],
         "model.net: there is no class Convv4; expected one of MLP, Conv4, or the dotted path of a class"),
        (["--data.source=Nope"],
         "data.source: there is no class Nope; expected one of CIFARFS, FC100, Arrays, Folder, Glyphs, MiniImageNet, "
         "Omniglot, Sinusoid, Table, "
         "or the dotted path of a class"),
        (['--model.net={"a.": 1}'], "'a.' is not a setting's name; expected names separated by single dots"),
        (['--data.source={"a.": 1}'], "'a.' is not a setting's name; expected names separated by single dots"),
        (["--model.net=math.sqrt"],
         "model.net is math.sqrt, which is not a Module; expected one of MLP, Conv4, or the dotted path of a class"),
        (["--model.optimizer=math.sqrt"],
         "model.optimizer is math.sqrt, which returns no Optimizer; expected the dotted path of a class"),
        (["--model=math.sqrt"],
         "model is math.sqrt, which is not a MetaModule; expected one of "
         "MAMLModule, MetaSGDModule, ProtoNetModule, ReptileModule, or the dotted path of a class"),
        (["--model.optimizer=torch.optim.Adamm"],
         "model.optimizer: there is no class torch.optim.Adamm, because torch.optim has no Adamm; did you mean "
         "torch.optim.Adam?"),
        (["--model.optimizer.lr=x"], "model.optimizer.lr is x; expected float"),
        (["--seed_everything=x"], "seed_everything is x; expected bool or int"),
        (["--model.inner_steps=-1"], "model.inner_steps is -1; expected 0 or more"),
        (["--model.task_chunk=0"], "model.task_chunk is 0; expected 1 or more, or null for all tasks at once"),
        (["--data.shots=0"], "data.shots is 0; expected 1 or more"),
        (["--data.meta_batch_size=-3"], "data.meta_batch_size is -3; expected 1 or more"),
        (["--model.inner_lr=.inf"], "model.inner_lr is inf; expected a finite number from 0"),
        (["--model.inner_lr=null"],
         "model.init_args.inner_lr is null; expected a value: set one, or leave the key out"),
        (["--model.task_loop=null"],
         "model.init_args.task_loop is null; expected a value: set one, or leave the key out"),
        (["--model.grad_clip=0"], "model.grad_clip is 0.0; expected more than 0, or null for no limit"),
        (["--model.net=pkg.nope"],
         "model.net: there is no class pkg.nope, because there is no module pkg in this folder, on "
         "PYTHONPATH or installed"),
        (["--model=MetaModule"],
         "model is an abstract class; expected one of "
         "MAMLModule, MetaSGDModule, ProtoNetModule, ReptileModule, or the dotted path of a class"),
        (["--model.loss=pkg.f"],
         "model.loss: there is no class pkg.f, because there is no module pkg in this folder, on "
         "PYTHONPATH or installed"),
        (["--model.loss=cross_entropy"],
         "model.loss is cross_entropy, but the targets are values; expected mse or auto"),
        (["--model.loss=torch.nn.functional.l1_loss", "--model.net.out_features=2"],
         "model.net gives float32 [10, 2] for targets [10, 1] up to 2.4; expected floats [10, 1]: check its width"),
        (["--model.net.in_features=3"], "model.net takes no inputs of shape [10, 1]: mat1 and mat2 shapes cannot be "
         "multiplied (10x1 and 3x40)"),
        (["--model.net=torch.nn.Identity"],
         "model.net has no parameter that learns, so there is nothing to train: set requires_grad of a part of it, or "
         "measure it as it is with the command test"),
        (["--model.optimizer.lr=-1"],
         "model.optimizer or model.lr_scheduler can't be created: Invalid learning rate: -1.0"),
        (["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"],
         "model.lr_scheduler is ReduceLROnPlateau, which needs a metric; expected a schedule of the meta-step, for "
         "example torch.optim.lr_scheduler.CosineAnnealingLR"),
        (["--checkpoint.monitor=val/nope"], "checkpoint.monitor is val/nope; expected one of val/loss, "
         "val/mse, val/loss_before, val/mse_before"),
        (["--data.ways=5"], "data.ways is 5, but model.init_args.net.init_args.out_features is 1; "
         "make them equal, or leave out_features out"),
        (["--trainer.precision=16-mixed"], "trainer.precision is 16-mixed; inner gradients are not scaled and vanish "
         "in half precision: use bf16-mixed or 32-true"),
        (["--data.num_workers=-1"], "data.num_workers is -1; expected 0 or more"),
        (["--data.num_workers=1000000"],
         f"data.num_workers is 1000000; expected at most {4 * CPUS} here, 4 per CPU"),
        (["--data.source.phase=[.nan, 1]"], "data.source.phase is [nan, 1.0]; expected two finite numbers, the lower "
         "first: for example [0.1, 5.0]"),
        (["--data.source.x=[-.inf, 1]"], "data.source.x is [-inf, 1.0]; expected two finite numbers, the lower first: "
         "for example [0.1, 5.0]"),
        (["--data.source.amplitude=[2, 1]"], "data.source.amplitude is [2.0, 1.0]; expected two finite numbers, the "
         "lower first: for example [0.1, 5.0]"),
        (["--seed_everything=-1"], "seed_everything is -1; expected a whole number from 0 to 4294967295"),
        (["--untrained=true"],
         "--untrained true measures the initialisation: leave it out with --ckpt_path or fit"),
        (["--trainer.val_check_interval=0"], "trainer.val_check_interval is 0; training counts meta-steps, not "
         "epochs: expected a whole number of meta-steps"),
        (["--trainer.devices=x"], "trainer: `devices` selected with `CPUAccelerator` should be an int > 0."),
        (["--trainer.strategy=fsdp"],
         "trainer.strategy is fsdp; it splits parameters over processes, and meta-gradients need them whole: use ddp"),
        (["--trainer.strategy=deepspeed_stage_2"],
         "trainer.strategy is deepspeed_stage_2; it splits parameters over processes, and meta-gradients need them "
         "whole: use ddp"),
        (["--model.check_finite_every=0"],
         "model.check_finite_every is 0; expected 1 or more meta-steps"),
        (["--trainer.devices=2", "--trainer.strategy=ddp", "--data.meta_batch_size=3"],
         "data.meta_batch_size is 3, which 2 processes can't share equally; choose a multiple of 2"),
        (["--ckpt_path=nowhere.ckpt"],
         "--ckpt_path nowhere.ckpt: no such file; expected last, best or the path of a checkpoint"),
        (["--ckpt_path=last"], "--ckpt_path last: none of the 0 runs in logs/sinusoid/maml holds "
         "checkpoints/last.ckpt; fit first, or give a path"),
        (["--trainer.gradient_clip_val=1"], "trainer.gradient_clip_val is 1; meta-learning steps its optimizer "
         "itself: set model.grad_clip instead"),
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches is 2; meta-learning steps its "
         "optimizer itself: set data.meta_batch_size, and model.task_chunk for memory"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(
    repository: Path, wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(["fit", "--config", str(repository / SINUSOID), *SHORT, *wrong], capsys) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("inner_lr:", "inner_lrr:", "there is no key model.inner_lrr; did you mean model.inner_lr?"),
        ("  shots:", "  shotz:", "there is no key data.shotz; did you mean data.shots?"),
        ("trainer:", "trainr:", "there is no key trainr; did you mean trainer?"),
        ("save_dir: logs, ", "", "trainer.logger lacks save_dir; set it there or in --config"),
        ("MAMLModule", "MAMLModul",
         "model: there is no class MAMLModul; expected one of "
         "MAMLModule, MetaSGDModule, ProtoNetModule, ReptileModule, or the dotted path of a class"),
        ("TensorBoardLogger", "TensorBordLogger",
         "trainer.logger: there is no class TensorBordLogger; expected the dotted path of a class"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_yaml_is_named(
    repository: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (repository / SINUSOID).read_text()
    assert old in text
    Path("wrong.yaml").write_text(text.replace(old, new))
    assert refused(["fit", "--config", "wrong.yaml"], capsys) == message


def test_a_section_that_is_no_mapping_is_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (repository / SINUSOID).read_text()
    Path("wrong.yaml").write_text(text[: text.index("trainer:")] + "trainer: [1, 2]\n")
    assert refused(["fit", "--config", "wrong.yaml"], capsys) == (
        "wrong.yaml: trainer is [1, 2]; expected a mapping of its keys"
    )
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "expected a YAML file" in refused(["fit", "--config", "binary.yaml"], capsys)


@pytest.mark.parametrize(
    ("text", "what"), [("", "nothing"), ("# later\n", "nothing"), ("- model\n- data\n", "a list"), ("7", "one value")]
)
def test_a_file_that_is_no_mapping_is_refused(text: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.yaml").write_text(text)
    assert refused(["fit", "--config", "wrong.yaml"], capsys) == (
        f"wrong.yaml holds {what}; expected a mapping with sections such as model, data and trainer"
    )


def test_other_slips_of_the_command_line(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(repository / SINUSOID)
    commands = "expected one of fit, validate, test, adapt, predict, compare, episodes, benchmark"
    assert refused([], capsys) == f"no command given; {commands}"
    assert refused(["fitt"], capsys) == f"there is no command fitt; {commands}"
    assert "File does not exist" in refused(["fit", "--config", "nope.yaml"], capsys)
    assert refused(["fit"], capsys) == "the command line lacks data.source, model; set it there or in --config"
    Path("broken.yaml").write_text("model: [")
    assert "Problems parsing config" in refused(["fit", "--config", "broken.yaml"], capsys)
    assert refused(["test", "--config", config], capsys) == (
        "test needs a checkpoint: add --ckpt_path best, last or a path (or --untrained true, to measure the "
        "initialisation)"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--data.ways=425"], "data.ways is 425, but split 'test' has 423 classes; lower data.ways"),
        (["--data.shots=15", "--data.queries=6"],
         "data.shots + data.queries is 15 + 6 = 21, but a class of split 'test' has 20 examples; "
         "lower data.shots or data.queries"),
        (["--data.ways=null"], "data.ways is not set; expected the number of classes of a task, for example 5"),
        (["--model.net.out_features=7"], "data.ways is 5, but model.init_args.net.init_args.out_features is 7; "
         "make them equal, or leave out_features out"),
        (["--data.train_ways=10"],
         "data.train_ways is 10, but data.ways is 5: a classifier has one width; make them equal"),
    ],
)  # fmt: skip
def test_an_impossible_episode_is_refused(
    repository: Path, omniglot_root: Path, wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [f"--data.source.root={omniglot_root}", "--data.source.download=false", "--untrained=true"]
    assert refused(["test", "--config", str(repository / OMNIGLOT), *source, *wrong], capsys) == message


def test_missing_or_broken_data_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd() / "cache"))
    fit = ["fit", "--config", str(repository / OMNIGLOT), "--data.source.root=there"]
    local = [*fit, "--data.source.download=false"]
    assert refused(local, capsys) == (
        "no images_background.zip in there: set data.source.root to its folder, or data.source.download to true"
    )
    Path("there").mkdir()
    for name in ("background", "evaluation"):
        with zipfile.ZipFile(f"there/images_{name}.zip", "w") as archive:
            archive.writestr(f"images_{name}/Latin/character01/0001_01.png", b"no picture")
    assert "does not decode" in refused(local, capsys)
    assert "there/images_background.zip has MD5" in refused(fit, capsys)
    Path("there/images_background.zip").write_bytes(b"PK not a zip")
    assert refused(local, capsys).startswith("there/images_background.zip is broken (")


@pytest.fixture(scope="module")
def trained(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to spoil copies of."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("trained")
    os.chdir(folder)
    try:
        assert main(["fit", "--config", str(repository / SINUSOID), *SHORT]) == 0
    finally:
        os.chdir(here)
    return folder / RUN


class _RunsCode:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("code_was_run"),)


def test_checkpoints_that_can_not_be_used_are_refused(
    repository: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, RUN)
    last = RUN / "checkpoints/last.ckpt"
    whole = last.read_bytes()
    for command in ("fit", "test"):
        resume = [command, "--config", str(repository / SINUSOID), *SHORT, "--ckpt_path=last"]
        for size in (0, 100, len(whole) // 2, len(whole) - 1):
            last.write_bytes(whole[:size])
            assert f"{last} can't be read (" in refused(resume, capsys)
        last.write_bytes(pickle.dumps({"state_dict": _RunsCode()}))
        assert f"{last} holds more than plain data and tensors, and was not run" in refused(resume, capsys)
        torch.save({"state_dict": {}, "extra": _RunsCode()}, last)
        assert f"{last} holds more than plain data and tensors, and was not run" in refused(resume, capsys)
        torch.save({"state_dict": {}}, last)
        assert refused(resume, capsys) == (
            f"{last} holds weights alone; expected a checkpoint written by `fit`: check --ckpt_path"
        )
        torch.save([1], last)
        assert refused(resume, capsys) == f"{last} is not a checkpoint: it holds no state_dict; check --ckpt_path"
        last.write_bytes(whole)
        assert refused([*resume, "--model.net.hidden=[40, 41]"], capsys) == (
            f"{last} is of another model: net.2.weight is [40, 40] there and [41, 40] here; "
            "check model.class_path and model.init_args.net, or --ckpt_path"
        )
    assert not Path("code_was_run").exists()


def test_a_run_is_resumed_only_as_it_was(repository: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained, RUN)
    resume = ["fit", "--config", str(repository / SINUSOID), *SHORT, "--ckpt_path=last"]
    ending = (
        f" in {RUN}/checkpoints/last.ckpt, and a resumed run must keep it; set it back "
        f"(--config {RUN}/config.yaml has it), or start a new run without --ckpt_path"
    )
    assert refused([*resume, "--seed_everything=1"], capsys) == "data.seed is 1, but 0" + ending
    same_episodes = [*resume, "--data.seed=0", "--seed_everything=1"]  # but other dropout
    assert refused(same_episodes, capsys) == "seed_everything is 1, but 0" + ending
    assert refused([*resume, "--data.train_shots=3"], capsys) == (
        "data.train_shape is [None, 3, 10], but [None, 10, 10]" + ending
    )
    step = "--model.lr_scheduler=torch.optim.lr_scheduler.StepLR"
    scheduled = refused([*resume, step, "--model.lr_scheduler.step_size=3"], capsys)
    assert scheduled == "model.lr_scheduler is StepLR, but None" + ending
    assert refused([*resume, "--data.meta_batch_size=4"], capsys) == "data.meta_batch_size is 4, but 2" + ending
    assert refused([*resume, "--data.source.phase=[0, 1]"], capsys).startswith("data.source is sinusoid")
    assert (
        refused([*resume, "--model.optimizer=torch.optim.SGD"], capsys) == "model.optimizer is SGD, but Adam" + ending
    )


def test_the_checkpoints_of_another_run_are_not_overwritten(
    repository: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, RUN)
    again = ["fit", "--config", str(repository / SINUSOID), *SHORT, "--trainer.logger.version=0"]
    assert refused(again, capsys) == (
        f"{RUN}/checkpoints holds the checkpoints of another run; resume that run with --ckpt_path last, or give "
        "the logger another version or name"
    )


def test_evaluating_on_another_source_says_so(
    repository: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, RUN)
    test = ["test", "--config", str(repository / SINUSOID), *SHORT, "--ckpt_path=last"]
    assert main([*test, "--data.source.phase=[0, 1]"]) == 0
    assert "the net may have been trained on classes of this evaluation" in capsys.readouterr().out
    assert main(test) == 0
    assert "Note:" not in capsys.readouterr().out


def test_debug_shows_the_traceback(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.shots is 0"):
        main(["fit", "--config", str(repository / SINUSOID), "--data.shots=0", "--debug"])


@pytest.mark.parametrize(
    ("text", "anchor"), [("model: &a {init_args: *a}\n", "a"), ("data: &all\n  source: [1, *all]\n", "all")]
)
def test_a_config_that_contains_itself_is_refused(text: str, anchor: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("case.yaml").write_text(text)
    message = f"case.yaml: &{anchor} contains itself (*{anchor}); remove that alias"
    assert refused(["fit", "--config", "case.yaml"], capsys) == message
