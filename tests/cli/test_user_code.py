"""Bugs in classes of the user's own: the message says what was raised, and in which line of their file."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from meta_lightning import EpisodicDataModule, MAMLModule
from meta_lightning.cli import console, main
from meta_lightning.data import Sinusoid
from meta_lightning.errors import ConfigError
from meta_lightning.nets import MLP

from .tiny import TINY

pytestmark = pytest.mark.filterwarnings("default")  # Lightning warns of short runs

MINE = """
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from meta_lightning import InnerLoopModule, MAMLModule
from meta_lightning.data import Sinusoid
from meta_lightning.types import Rule


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x)


class Lines(Net):
    def __init__(self, width: int = 3) -> None:
        raise ValueError("odd:\\n  3")


class Key(Net):
    def __init__(self, width: int = 3) -> None:
        {"a": 1}["depth"]


class Bare(Net):
    def __init__(self, width: int = 3) -> None:
        raise NotImplementedError


class Imports(Net):
    def __init__(self, width: int = 3) -> None:
        import no_such_package


class Opens(Net):
    def __init__(self, width: int = 3) -> None:
        open("weights.pt")


class Calls(Net):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        nn.Linear(3)


class Untyped(Net):
    def __init__(self, width, depth=2):
        super().__init__()
        assert width == 3


class Rest(Net):
    def __init__(self, *sizes):
        super().__init__()


class Forward(Net):
    def forward(self, x):
        return {}["x"]


class Typo(Net):
    def forward(self, x):
        return self.leyer(x)


class Early(nn.Module):
    def __init__(self, width: int = 3) -> None:
        self.layer


class Shapes(Net):
    def forward(self, x):
        return self.layer(x).view(7, 13)


class Branch(MAMLModule):
    def objective(self, params, buffers, task, step):
        objective = super().objective(params, buffers, task, step)
        if objective.loss > 1:
            return objective._replace(loss=2 * objective.loss)
        return objective


class Product(MAMLModule):
    def objective(self, params, buffers, task, step):
        return task.query.y @ torch.zeros(77, 3)


class Number(MAMLModule):
    def objective(self, params, buffers, task, step):
        return 3


class Tau(MAMLModule):
    def __init__(self, net: nn.Module, tau: float = 0.1, **shared):
        super().__init__(net, task_lop=tau, **shared)


class Returns(InnerLoopModule):
    def trajectory(self, params, buffers, task, steps, *, first_order):
        return self.start(params)


class NoBase(MAMLModule):
    def __init__(self, net: nn.Module) -> None:
        pass


class Misnamed(InnerLoopModule):
    def trajektory(self, params, buffers, task, steps, *, first_order):
        return self.start(params)


class Ruled(MAMLModule):
    update = None

    def trajectory(self, params, buffers, task, steps, *, first_order):
        rule = Rule(lambda start: None, type(self).update)
        return self.inner_loop(self.start(params), task, 0.1, steps, first_order=first_order, rule=rule)


class Updates(Ruled):
    def update(grads, state, params, step, rates):
        return grads


class Empty(Ruled):
    def update(grads, state, params, step, rates):
        return {}, state


class NetNoBase(nn.Module):
    def __init__(self, width: int = 3) -> None:
        self.width = width


class Forgets(MAMLModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)


class ReturnsNothing(Net):
    def forward(self, x):
        self.layer(x)


class Unfinished(Sinusoid.__base__):
    def load(self, split):
        return None


class Needs(Net):
    def __init__(self, out_features: int) -> None:
        super().__init__()


class Third(MAMLModule):
    def training_step(self, tasks, number):
        super().training_step(tasks, number)
        if self.global_step == 3:
            raise RuntimeError("the third")


class Root(Sinusoid):
    def __init__(self, root: str = "x") -> None:
        raise ValueError(f"no {root}")


class Loads(Sinusoid):
    def load(self, split):
        return open("data.csv")


class LoadsNothing(Sinusoid):
    def load(self, split):
        return None


class Draws:
    def __init__(self, family):
        self.family = family

    def __getattr__(self, name):
        return getattr(self.family, name)

    def draw(self, keys, shape):
        raise IndexError("row 7")


class Drawn(Sinusoid):
    def load(self, split):
        return Draws(super().load(split)) if split == "val" else super().load(split)


class Every(Callback):
    def __init__(self, every):
        self.every = every


class Odd(Callback):
    def __init__(self, every: int = 3) -> None:
        raise ValueError("every")


class Hook(Callback):
    def on_train_batch_end(self, trainer, *rest):
        trainer.callback_metrics["val/nope"]


class Arguments(Callback):
    def on_train_batch_end(self, trainer, module):
        pass


class Log(CSVLogger):
    def __init__(self, save_dir: str = "logs") -> None:
        raise ConnectionError("no server")


class Optimizer(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1) -> None:
        raise ValueError("no groups")


class Step(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        raise RuntimeError("no step")


class Loss(nn.Module):
    def __init__(self, beta: float = 1.0) -> None:
        raise ValueError("beta")


def loss(predictions, targets) -> torch.Tensor:
    return predictions.nope


def make(width: int = 3) -> nn.Module:
    raise ValueError("made nothing")
"""

NET, MODEL, SOURCE = "--model.net=mine.", "--model=mine.", "--data.source=mine."
CALLBACK = "--trainer.callbacks+=mine."

# An argument, the first line of the message, and the function and the line of code that the second line names.
BUGS = [
    (NET + "Lines", "ValueError: odd: 3", "Lines.__init__", 'raise ValueError("odd:\\n  3")'),
    (NET + "Key", "KeyError: 'depth'", "Key.__init__", '{"a": 1}["depth"]'),
    (NET + "Bare", "NotImplementedError", "Bare.__init__", "raise NotImplementedError"),
    (NET + "Imports", "ModuleNotFoundError: No module named 'no_such_package'", "Imports.__init__",
     "import no_such_package"),
    (NET + "Opens", "FileNotFoundError: [Errno 2] No such file or directory: 'weights.pt'", "Opens.__init__",
     'open("weights.pt")'),
    (NET + "Calls", "TypeError: Linear.__init__() missing 1 required positional argument: 'out_features'",
     "Calls.__init__", "nn.Linear(3)"),
    (NET + "Forward", "KeyError: 'x'", "Forward.forward", 'return {}["x"]'),
    (NET + "Typo", "AttributeError: 'Typo' object has no attribute 'leyer'. Did you mean: 'layer'?", "Typo.forward",
     "return self.leyer(x)"),
    (NET + "Early", "AttributeError: 'Early' object has no attribute 'layer'", "Early.__init__", "self.layer"),
    (NET + "Shapes", "model.net takes no inputs of shape [5, 1]: shape '[7, 13]' is invalid for input of size 5",
     "Shapes.forward", "return self.layer(x).view(7, 13)"),
    (NET + "make", "ValueError: made nothing", "make", 'raise ValueError("made nothing")'),
    (MODEL + "Branch", "Branch.objective can't be mapped over tasks (vmap: It looks like you're attempting to use a "
     "Tensor in some data-dependent control flow. We don't support that ...); try model.task_loop: loop",
     "Branch.objective", "if objective.loss > 1:"),
    (MODEL + "Product", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (5x1 and 77x3)", "Product.objective",
     "return task.query.y @ torch.zeros(77, 3)"),
    (MODEL + "Tau", "TypeError: MetaModule.__init__() got an unexpected keyword argument 'task_lop'", "Tau.__init__",
     "super().__init__(net, task_lop=tau, **shared)"),
    (SOURCE + "Root", "ValueError: no x", "Root.__init__", 'raise ValueError(f"no {root}")'),
    (SOURCE + "Loads", "FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'", "Loads.load",
     'return open("data.csv")'),
    (SOURCE + "Drawn", "IndexError: row 7", "Draws.draw", 'raise IndexError("row 7")'),
    (CALLBACK + "Odd", "ValueError: every", "Odd.__init__", 'raise ValueError("every")'),
    ("--trainer.logger=mine.Log", "ConnectionError: no server", "Log.__init__", 'raise ConnectionError("no server")'),
    ("--model.optimizer=mine.Optimizer",
     "model.optimizer or model.lr_scheduler can't be created: ValueError: no groups", "Optimizer.__init__",
     'raise ValueError("no groups")'),
    ("--model.optimizer=mine.Step", "model.optimizer is Step, whose step fails (RuntimeError: no step); expected an "
     "optimizer that takes dense gradients and no closure, for example torch.optim.Adam", "Step.step",
     'raise RuntimeError("no step")'),
    ("--model.loss=mine.Loss", "ValueError: beta", "Loss.__init__", 'raise ValueError("beta")'),
    ("--model.loss=mine.loss", "AttributeError: 'Tensor' object has no attribute 'nope'", "loss",
     "return predictions.nope"),
]  # fmt: skip

# What is refused by what it lacks: the whole message.
REFUSED = [
    ([NET + "Untyped"], "model.init_args.net lacks width, which Untyped has no default for: set "
     "model.init_args.net.width, or give it a default (with a type hint, its value is checked, too)"),
    ([CALLBACK + "Every"], "trainer.callbacks lacks every, which Every has no default for: set trainer.callbacks.every,"
     " or give it a default (with a type hint, its value is checked, too)"),
    ([NET + "Rest", "--model.net.sizes=[3]"], "there is no key model.net.sizes: mine.Rest takes *sizes, which a config "
     "can't name; give it one parameter, such as sizes: list[int]"),
    ([MODEL + "Number"], "Number.objective returns int; expected meta_lightning.types.Objective(loss, metrics), whose "
     "loss is one number"),
    ([MODEL + "Returns"],
     "Returns.trajectory returns dict; expected it to yield the parameters of the net by name after each step"),
    ([SOURCE + "LoadsNothing"], "data.source: load('train') of LoadsNothing returns NoneType, which has no check, draw,"
     " describe, rebuild, to, preprocess; expected tasks, such as a ClassTable"),
    ([MODEL + "NoBase"], "NoBase.__init__ does not call super().__init__(net, ...); call it first, and pass on the "
     "keys of the base class: def __init__(self, net, ..., **inner) and super().__init__(net, **inner)"),
    ([NET + "NetNoBase"], "NetNoBase.__init__ does not call super().__init__(); call it first"),
    ([MODEL + "Misnamed"], "model is mine.Misnamed, which does not define trajectory; define what its base class asks "
     "for"),
    ([SOURCE + "Unfinished"], "data.source is mine.Unfinished, which does not define fingerprint, prepare; define what "
     "its base class asks for"),
    ([MODEL + "Updates"], "the inner rule's update returns dict; expected (updates, state), where updates has a tensor "
     "for each parameter by name"),
    ([MODEL + "Empty"], "the inner rule's update lacks 0.bias, 0.weight, 2.bias, 2.weight; expected a tensor for each "
     "parameter"),
    ([NET + "ReturnsNothing"], "model.net returns a NoneType; expected a tensor of predictions"),
    ([NET + "Needs"], "model.net lacks out_features; set it there or in --config; a net whose out_features has the "
     "default None gets data.ways"),
    ([NET + "Nets"], "model.net: there is no class mine.Nets, because mine has no Nets; did you mean mine.Net?"),
    (["--model.net=string.Net"], "model.net: there is no class string.Net, because the module string is not string.py "
     f"of this folder but {__import__('string').__file__}; rename the file"),
]  # fmt: skip

# Modules that exist and can't be imported.
BROKEN = [
    ("from torch import nn\nimport no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'", 2,
     "import no_such_package"),
    ("import torch\n\nclass Net(torch.nn.Module)\n    pass\n", "SyntaxError: expected ':'", 3,
     "class Net(torch.nn.Module)"),
    ("settings = {}\nsettings['path']\n", "KeyError: 'path'", 2, "settings['path']"),
    ("from .nets import Net\n", "ImportError: attempted relative import with no known parent package", 1,
     "from .nets import Net"),
    ("import sys\nsys.exit('usage: train.py')\n", "SystemExit: usage: train.py", 2, "sys.exit('usage: train.py')"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _mine(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(MINE)
    Path("string.py").write_text("class Net: pass\n")
    Path("run.yaml").write_text(TINY)
    monkeypatch.syspath_prepend(Path.cwd())
    for name in ("mine", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Runs a command that must fail; returns the lines of its message."""
    capsys.readouterr()
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    assert main(["fit", "--config=run.yaml", *quiet, *arguments]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said[said.index("error: ") :].removeprefix("error: ").splitlines()


def place(file: str, line: int, function: str, source: str) -> str:
    within = f", in {function}" if function else ""
    return f'  File "{file}", line {line}{within}: {source} (--debug shows the whole traceback)'


@pytest.mark.parametrize(("argument", "message", "function", "source"), BUGS, ids=[bug[0] for bug in BUGS])
def test_a_bug_is_told_with_its_line(
    argument: str, message: str, function: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [text.strip() for text in MINE.splitlines()].index(source) + 1
    assert fails([argument], capsys) == [message, place("mine.py", line, function, source)]
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[case[0][0] for case in REFUSED])
def test_what_a_class_lacks_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(arguments, capsys) == [message]


@pytest.mark.parametrize(("text", "message", "line", "source"), BROKEN, ids=[case[1] for case in BROKEN])
@pytest.mark.parametrize("argument", ["--model.net=broken.Net", "--data.source=broken.Net"])
def test_a_module_that_can_not_be_imported_says_why(
    argument: str, text: str, message: str, line: int, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text(text)
    key = argument[2:].partition("=")[0]
    assert fails([argument], capsys) == [
        f"{key} is broken.Net, but importing broken fails: {message}",
        place("broken.py", line, "", source),
    ]


def test_a_class_of_the_config_file_is_looked_at_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.py").write_text(BROKEN[0][0])
    Path("run.yaml").write_text(TINY.replace("class_path: MLP,", "class_path: broken.Net,"))
    assert fails([], capsys)[0].startswith("model.net is broken.Net, but importing broken fails: ModuleNotFoundError")


@pytest.mark.parametrize(
    ("argument", "message", "function", "source"),
    [
        (MODEL + "Third", "RuntimeError: the third", "Third.training_step", 'raise RuntimeError("the third")'),
        (CALLBACK + "Hook", "KeyError: 'val/nope'", "Hook.on_train_batch_end", 'trainer.callback_metrics["val/nope"]'),
        (CALLBACK + "Arguments",
         "TypeError: Arguments.on_train_batch_end() takes 3 positional arguments but 6 were given",
         "Arguments.on_train_batch_end", "def on_train_batch_end(self, trainer, module):"),
    ],
)  # fmt: skip
def test_a_bug_in_a_run_that_has_begun(
    argument: str, message: str, function: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [text.strip() for text in MINE.splitlines()].index(source) + 1
    assert fails([argument], capsys)[-2:] == [message, place("mine.py", line, function, source)]


def test_a_bug_in_a_worker_process(capsys: pytest.CaptureFixture[str]) -> None:
    text = MINE.replace('if split == "val" else super().load(split)', 'if split == "train" else super().load(split)')
    in_worker = "if torch.utils.data.get_worker_info(): raise IndexError('row 7')"
    text = text.replace('raise IndexError("row 7")', f"{in_worker}\n        return self.family.draw(keys, shape)")
    Path("mine.py").write_text(text)
    first, second = fails([SOURCE + "Drawn", "--data.num_workers=1"], capsys)[-2:]
    assert first == "IndexError: row 7"
    assert second.startswith('  File "mine.py", line ')
    assert ", in draw" in second


def test_debug_shows_the_traceback_of_the_users_own_exception() -> None:
    with pytest.raises(ValueError, match="odd") as raised:
        main(["fit", "--config=run.yaml", NET + "Lines", "--debug"])
    assert raised.traceback[-1].path == Path("mine.py").resolve()


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meta_lightning.cli.app.check_run", None)
    with pytest.raises(TypeError, match="not callable"):
        main(["fit", "--config=run.yaml"])


def test_a_refusal_of_the_users_own_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = MINE.replace(
        'raise ValueError(f"no {root}")', 'from meta_lightning import ConfigError; raise ConfigError("no")'
    )
    Path("mine.py").write_text(text)
    assert fails([SOURCE + "Root"], capsys) == ["no"]


def test_arguments_without_hints_work_where_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["fit", "--config=run.yaml", "--trainer.max_steps=0", "--trainer.enable_progress_bar=false"]
    assert main([*run, NET + "Untyped", "--model.net.width=3"]) == 0


@pytest.mark.parametrize("safe_path", [False, True])
def test_the_console_script_finds_modules_of_the_working_folder(
    safe_path: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(Path.cwd()))])
    monkeypatch.setattr(sys, "argv", ["meta-lightning", "fit", "--config=run.yaml", NET + "Bare"])
    own = {name: getattr(sys, name) for name in ("path", "argv", "exit")}
    flags = SimpleNamespace(safe_path=safe_path)
    monkeypatch.setattr(sys.modules["meta_lightning.cli.main"], "sys", SimpleNamespace(**own, flags=flags))
    importlib.invalidate_caches()
    with pytest.raises(SystemExit, match="2"):
        console()
    said = capsys.readouterr().err
    assert ("there is no module mine in this folder" if safe_path else "error: NotImplementedError") in said


def test_an_import_error_from_python_is_one_of_the_config() -> None:
    from meta_lightning.engine.recipes import import_class

    Path("broken.py").write_text(BROKEN[1][0])
    with pytest.raises(ConfigError, match=r"broken.Net can't be imported \(expected ':'"):
        import_class("broken.Net")


def test_settings_that_an_algorithm_does_not_pass_on_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(TINY.replace("check_derivative: false", "check_derivative: false\n    inner_steps: 3"))
    run = ["fit", "--config=run.yaml", "--trainer.max_steps=0", "--trainer.enable_progress_bar=false"]
    assert main([*run, MODEL + "Forgets"]) == 0
    assert "Note: Forgets replaces MAMLModule and has no check_derivative, inner_steps\n" in capsys.readouterr().out
    assert main([*run, "--model=ReptileModule"]) == 0
    assert "replaces" not in capsys.readouterr().out  # it has all of them


def test_a_class_in_place_of_an_object_is_refused_from_python() -> None:
    with pytest.raises(ConfigError, match=r"^data.source is the class Sinusoid; expected an object: Sinusoid"):
        EpisodicDataModule(Sinusoid)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^model.net is the class MLP; expected an object of a subclass of torch.nn"):
        MAMLModule(MLP)  # type: ignore[arg-type]
