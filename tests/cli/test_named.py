"""What a config may name: a class or a function of the wrong kind is refused before it is called."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from meta_lightning.cli import main
from meta_lightning.engine import recipes
from meta_lightning.errors import ConfigError

from ..engine.test_own_optimizer import command
from .test_bad_input import refused

pytestmark = pytest.mark.filterwarnings("default")
SYSTEM = {"class_path": "os.system", "init_args": {"command": "touch ran"}}
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "ran"]}}


class Typed:
    """A setting of a net that is no module."""


class Part(nn.Module):
    def __init__(self, inner: Any = None, typed: Typed | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def make_net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(1, width), nn.Linear(width, 1))


def silent_net(width):
    return make_net(width)


def open_net(**options: Any) -> nn.Module:
    return {"net": make_net}["net"](**options)


HERE = __name__
FUNCTION = (
    "{}, a function that does not say which module it makes; expected a class, or a function with a return annotation "
    "such as '-> torch.nn.Module'"
)
CLASS = (
    "{}, which is not a part of a model, data or a trainer; expected for example a subclass of torch.nn.Module, or "
    "annotate the argument with the class that it takes"
)


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"optimizer": SYSTEM},
         "model.optimizer is os.system; expected a subclass of torch.optim.Optimizer"),
        ({"lr_scheduler": SYSTEM},
         "model.lr_scheduler is os.system; expected a subclass of "
         "torch.optim.lr_scheduler.LRScheduler"),
        ({"loss": SYSTEM}, "model.loss is " + FUNCTION.format("os.system")),
        ({"loss": "os.system"},
         "model.loss is system, a function that does not say that it makes a tensor; expected a subclass of "
         "torch.nn.Module, or a function with the return annotation '-> torch.Tensor'"),
        ({"net": {"class_path": f"{HERE}.Part", "init_args": {"inner": SYSTEM}}},
         "model.net.inner is " + FUNCTION.format("os.system")),
        ({"net": {"class_path": f"{HERE}.Part", "init_args": {"inner": POPEN}}},
         "model.net.inner is " + CLASS.format("subprocess.Popen")),
        ({"net": {"class_path": f"{HERE}.Part", "init_args": {"inner": [{"a": SYSTEM}]}}},
         "model.net.inner.a is " + FUNCTION.format("os.system")),
    ],
    ids=["optimizer", "schedule", "loss", "loss function", "any", "class", "nested"],
)  # fmt: skip
def test_nothing_of_the_wrong_kind_is_called(
    model: dict[str, Any], message: str, test: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(model=model)
    arguments = ["test", *arguments[1:], "--untrained=true"] if test else arguments
    assert refused(arguments, capsys) == message
    assert not Path("ran").exists()


@pytest.mark.parametrize("key", ["model.net", "data.source", "trainer.logger", "trainer.callbacks", "model"])
def test_no_other_key_calls_a_function(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = '[{"class_path": "os.system", "init_args": {"command": "touch ran"}}]'
    assert refused(command(f"--{key}={value if 'callbacks' in key else value[1:-1]}"), capsys).startswith(key)


def test_a_factory_says_what_it_makes(capsys: pytest.CaptureFixture[str]) -> None:
    net = {"class_path": f"{HERE}.make_net", "init_args": {"width": 3}}
    assert main(command("--trainer.max_steps=1", model={"net": net})) == 0
    message = refused(command(model={"net": {**net, "class_path": f"{HERE}.silent_net"}}), capsys)
    assert message == (
        f"model.net is {HERE}.silent_net, which is not a Module; expected one of MLP, Conv4, or the dotted path of a "
        "class; annotate what the function returns, for example with '-> torch.nn.Module'"
    )


def test_a_class_that_the_argument_is_annotated_with_is_taken() -> None:
    net = {"class_path": f"{HERE}.Part", "init_args": {"typed": {"class_path": f"{HERE}.Typed"}}}
    assert main(command("--trainer.max_steps=1", model={"net": net})) == 0


def test_a_checkpoint_that_names_a_function_does_not_call_it() -> None:
    recipe = {"class_path": "meta_lightning.MAMLModule", "init_args": {"net": {"class_path": f"{HERE}.Part"}}}
    for key in ("optimizer", "loss"):
        with pytest.raises(ConfigError, match=f"model.{key} is os.system"):
            recipes.build({**recipe, "init_args": {**recipe["init_args"], key: SYSTEM}}, nn.Module)  # type: ignore[dict-item]
    assert not Path("ran").exists()


def test_the_key_for_arguments_that_a_factory_does_not_state(capsys: pytest.CaptureFixture[str]) -> None:
    net = {"class_path": f"{HERE}.open_net"}
    message = refused(command(model={"net": {**net, "init_args": {"width": 3}}}), capsys)
    assert message == "model.net does not state the argument width; expected it under dict_kwargs, beside init_args"
    assert main(command("--trainer.max_steps=1", model={"net": {**net, "dict_kwargs": {"width": 3}}})) == 0


def test_a_factory_that_lacks_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(command(model={"net": {"class_path": f"{HERE}.open_net"}}), capsys)
    assert message == (
        "model, data or trainer can't be made: TypeError: make_net() missing 1 required positional argument: 'width'; "
        "give it under init_args, or under dict_kwargs where a function takes it as **kwargs"
    )
