"""The private names of Lightning and jsonargparse that the command line touches: a test fails when one changes."""

from inspect import signature
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from meta_lightning.cli.lightning_seams import SeamedCLI

# What we override or call, with the parameters that we count on.
PRIVATE = {
    "_instantiate_trainer": ["self", "config", "callbacks"],
    "_set_seed": ["self"],
    "_run_subcommand": ["self", "subcommand"],
    "_parse_ckpt_path": ["self"],
    "_add_subcommands": ["self", "parser", "kwargs"],
    "_prepare_subcommand_parser": ["self", "klass", "subcommand", "kwargs"],
}


@pytest.mark.parametrize(("name", "parameters"), PRIVATE.items(), ids=PRIVATE)
def test_lightning_has_it_with_these_parameters(name: str, parameters: list[str]) -> None:
    assert [*signature(getattr(LightningCLI, name)).parameters] == parameters


def test_every_private_name_that_is_overridden_is_in_the_table() -> None:
    overridden = {name for name in vars(SeamedCLI) if name.startswith("_") and not name.startswith("__")}
    assert overridden <= PRIVATE.keys()


class Nothing(LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.width = width


class Quick(Trainer):
    def fit(self, model: LightningModule) -> None:
        """Fits nothing."""


@pytest.mark.filterwarnings("default")  # Lightning uses names that jsonargparse deprecates
def test_lightning_calls_them_in_this_order() -> None:
    called: list[str] = []

    def noted(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return getattr(LightningCLI, name)(self, *args, **kwargs)

        return method

    class Noting(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {"fit": {"model"}}

    for name in PRIVATE:
        setattr(Noting, name, noted(name))
    cli = Noting(Nothing, trainer_class=Quick, args=["fit", "--trainer.logger=false"], seed_everything_default=0,
                 load_from_checkpoint_support=False)  # fmt: skip
    assert called == [
        "_add_subcommands", "_prepare_subcommand_parser", "_parse_ckpt_path", "_set_seed", "_instantiate_trainer",
        "_run_subcommand",
    ]  # fmt: skip
    assert isinstance(cli._subcommand_parsers["fit"], LightningArgumentParser)
    keys = {action.dest for action in cli._subcommand_parsers["fit"]._actions}
    assert {"model.width", "trainer.max_steps", "seed_everything"} <= keys


def test_help_consists_of_groups_of_actions_whose_texts_list_subclasses() -> None:
    parser = LightningArgumentParser(prog="x")
    parser.add_subclass_arguments(LightningModule, "model")
    groups = {group.title: [action.dest for action in group._group_actions] for group in parser._action_groups}
    assert [*groups.values()][-1] == ["model.help", "model"]
    text = " ".join(parser.format_help().split())
    assert "known subclasses: " in text
    parser._action_groups.reverse()
    assert parser.format_help().index("--model ") < parser.format_help().index("--help")
