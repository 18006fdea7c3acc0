"""The texts of ``--help``: what stands where, and that every key and command has a line."""

import re

import pytest

from meta_lightning.cli import main
from meta_lightning.cli.help import SHORT_NAMES
from meta_lightning.commands import COMMANDS


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def printed(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 0
    return capsys.readouterr().out


def test_every_command_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("--help", capsys)
    for name, command in COMMANDS.items():
        assert re.search(rf"^    {name} +{re.escape(command.summary)}$", text, re.MULTILINE)
    assert "--debug" in text


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.needs != "nothing"])
def test_our_keys_come_first_and_each_has_a_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(f"{command} --help", capsys)
    assert text.startswith(
        f"usage: meta-lightning {command} --config FILE [--KEY VALUE ...]\n\n{COMMANDS[command].summary}"
    )
    keys = re.findall(r"^  --(\w+)[\w.]* *[^\n]*\n(?=( *\S))", text, re.MULTILINE)
    sections = [*dict.fromkeys(key for key, _ in keys)]
    assert sections.index("model") < sections.index("data") < sections.index("checkpoint")
    assert sections[-1] == "trainer"
    titles = re.findall(r"^([A-Z].*):$", text, re.MULTILINE)
    assert titles[0].startswith("The method (")
    assert titles[-1] == "Lightning's trainer"
    ours = text[: text.index("Lightning's trainer:")]
    assert re.findall(r"^  --[\w.]+ \S+$\n(?!   )", ours, re.MULTILINE) == []  # a key whose text is missing
    assert "lightning." not in ours
    assert "registry" not in ours


@pytest.mark.parametrize("method", SHORT_NAMES["model"])
def test_the_keys_of_a_method_come_first(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(f"fit --model.help {method}", capsys).splitlines()
    assert lines[0] == f"Help for --model.help=meta_lightning.{method}"
    keys = [line.split()[0] for line in lines if line.startswith("  --")]
    assert keys[:2] == ["--model.net.help", "--model.net"]
    if method == "MAMLModule":
        assert keys[2] == "--model.inner_lr"
    assert "MLP, Conv4 or the dotted path of another class" in " ".join(" ".join(lines[:12]).split())
    assert len(lines) < 120


@pytest.mark.parametrize(
    ("line", "key"),
    [("fit --model.net.help Conv4", "model.net.width"), ("test --model.net.help=MLP", "model.net.hidden"),
     ("fit --model ProtoNetModule --model.net.help Conv4", "model.net.width"),
     ("fit --model.net.help meta_lightning.nets.Conv4", "model.net.width"),
     ("fit --model.optimizer.help SGD", "model.optimizer.momentum"),
     ("fit --data.source.help Glyphs", "data.source.examples")],
)  # fmt: skip
def test_classes_within_others_have_help(line: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"  --{key} " in printed(line, capsys)


@pytest.mark.parametrize("key", ["model", "model.net", "data.source"])
def test_help_without_a_class_lists_the_classes(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(f"fit --{key}.help", capsys)
    for name in SHORT_NAMES[key.rpartition(".")[2]]:
        assert re.search(rf"--{key}\.help {name} +\S+", text)


def test_help_of_a_class_that_is_not_there_names_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.net.help", "Conf4"]) == 2
    assert capsys.readouterr().err == (
        "error: --model.net.help: there is no class Conf4; expected one of MLP, Conv4, or the dotted path of a class\n"
    )
