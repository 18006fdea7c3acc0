import pickle
import shutil
from functools import partial
from typing import Any

import pytest
import torch

from meta_lightning import MAMLModule
from meta_lightning.engine import compiling
from meta_lightning.engine.compiling import COMPILER
from meta_lightning.errors import ConfigError

from ..algorithms.problems import SINUSOIDS
from ..algorithms.test_conformance import flat, trainer

sgd = partial(torch.optim.SGD, lr=0.01)


def fitted(**options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = MAMLModule(SINUSOIDS.net(), **options)
    trainer(6).fit(module, datamodule=SINUSOIDS.data())
    return module.state_dict()


def test_fit_compiles_once_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(compiling, "rank_zero_info", said.append)
    torch.compiler.reset()
    monkeypatch.setattr("meta_lightning.algorithms.base.COMPILER", "aot_eager")
    torch.testing.assert_close(fitted(compile=True), fitted())
    assert len(said) == 2
    assert said[0].startswith("Compiling the meta-step of 4 tasks at once. This takes ")
    assert said[1].startswith("Compiled in ")


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch itself
def test_what_ships_gives_the_same_gradient() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    module = MAMLModule(SINUSOIDS.net(), inner_steps=2, inner_lr=0.1)
    arguments = module.learnable(), {}, SINUSOIDS.tasks(5), torch.tensor(0)
    expected = module.meta_step(*arguments)
    module.set_backend(module.backend, compiler=COMPILER)
    torch.testing.assert_close(module.meta_step(*arguments), expected)


def test_each_module_has_its_own() -> None:
    """With the same shapes and other settings, of which the compiler is told to guard nothing."""
    torch.compiler.reset()
    found = []
    for steps, compiler in ((1, "eager"), (2, "eager"), (2, None)):
        torch.manual_seed(0)
        module = MAMLModule(SINUSOIDS.net(), inner_steps=steps, inner_lr=0.1)
        module.set_backend(module.backend, compiler=compiler)
        found.append(module.meta_step(module.learnable(), {}, SINUSOIDS.tasks(), torch.tensor(0))[0])
    torch.testing.assert_close(found[1], found[2])
    assert not torch.equal(found[0]["net.first.weight"], found[1]["net.first.weight"])


def test_a_layer_that_is_released_learns() -> None:
    torch.compiler.reset()
    module = MAMLModule(SINUSOIDS.net())
    module.set_backend(module.backend, compiler="eager")
    first = module.net.get_submodule("first").requires_grad_(False)
    for names in ({"net.second.weight", "net.second.bias"}, {*dict(module.named_parameters())}):
        gradients, _, _ = module.meta_step(module.learnable(), {}, SINUSOIDS.tasks(), torch.tensor(0))
        assert {*gradients} == names
        first.requires_grad_(True)


def test_nothing_compiled_outlives_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meta_lightning.algorithms.base.COMPILER", "eager")
    module = MAMLModule(SINUSOIDS.net(), compile=True, optimizer=sgd)
    trainer(2).fit(module, datamodule=SINUSOIDS.data())
    module.trainer = None  # Lightning's can't be pickled
    copy = pickle.loads(pickle.dumps(module))
    copy.inner_steps = 3
    arguments = module.learnable(), {}, SINUSOIDS.tasks(), torch.tensor(0)
    assert not torch.equal(flat(copy.meta_step(*arguments)[0]), flat(module.meta_step(*arguments)[0]))


def test_compile_does_not_go_with_split() -> None:
    with pytest.raises(ConfigError, match=r"task_loop: split can.t be compiled"):
        MAMLModule(SINUSOIDS.net(), compile=True, task_loop="split")


def test_what_can_not_be_compiled_is_told_in_a_line() -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("no compiler")

    module = MAMLModule(SINUSOIDS.net())
    module.set_backend(module.backend, compiler=broken)
    arguments = module.learnable(), {}, SINUSOIDS.tasks(), torch.tensor(0)
    with pytest.raises(
        ConfigError, match=r"model\.compile: the meta-step can't be compiled here \(.*no compiler"
    ) as error:
        module.meta_step(*arguments)
    assert "\n" not in str(error.value)
    assert "set model.compile to false" in str(error.value)
