"""What `predict` adds to predictions: a page, and a comparison with what is true."""

import base64
import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from meta_lightning.cli import main

from ..cli.test_bad_input import refused
from .trained import NAMES, letters, write_pictures


def rows(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


@pytest.fixture
def ready(trained):
    """An adapted file, and pictures in folders that name their classes."""
    support, query = letters()
    write_pictures(Path("support"), support)
    new = write_pictures(Path("new"), query)
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", "--support=support"]) == 0
    return new


@pytest.fixture
def values(trained):
    Path("support.csv").write_text("x,y\n-3,1\n-1,-0.5\n0,0.2\n1,1\n2,2\n")
    Path("new.csv").write_text("x,measured\n-2,0.5\n0.5,1\n1,3\n")
    assert main(["adapt", f"--ckpt_path={trained('sinusoid')}", "--support=support.csv"]) == 0


def predict(*more, new="new"):
    return ["predict", "--adapted=adapted.pt", f"--input={new}", *more]


def test_truth_comes_from_folders_or_a_list(ready, capsys):
    assert main(predict("--truth=new")) == 0
    shown = capsys.readouterr().out
    written = rows("predictions.csv")
    true = [row["file"].split("/")[0] for row in written]
    assert [row["truth"] for row in written] == true
    hits = sum(row["class"] == name for row, name in zip(written, true, strict=True))
    assert f"Accuracy {hits / 20:.2%} ({hits} of 20; 95 % interval " in shown
    order = sorted(NAMES)
    for name in order:
        answers = [row["class"] for row in written if row["truth"] == name]
        counts = [str(answers.count(answer)) for answer in order]
        (line,) = [line for line in shown.splitlines() if line.startswith(f"│ {name} ")]
        assert [cell.strip() for cell in line.strip("│").split("│")][1:] == counts
    shutil.copytree("new", "elsewhere/deep/new")
    lines = [f"{row['file']},{row['truth']}" for row in written[:15]]
    Path("labels.csv").write_text("\n".join(["file,class", *lines]), encoding="utf-8")
    assert main(predict("--truth=labels.csv", new="elsewhere")) == 0
    shown = capsys.readouterr().out
    assert "Note: the truth of 5 of the 20 inputs is not known; they do not count" in shown
    hits = sum(row["class"] == row["truth"] for row in written[:15])
    assert f"({hits} of 15; " in shown
    assert [row["truth"] for row in rows("predictions.csv")] == true[:15] + [""] * 5


def test_truth_is_a_column_or_an_array_of_the_input(ready, capsys):
    _, query = letters()
    names = [NAMES[label] for label in query.y.tolist()]
    np.savez("new.npz", x=255 - query.x[:, 0].numpy(), kind=names)
    assert main(predict("--truth=kind", new="new.npz")) == 0
    assert [row["truth"] for row in rows("predictions.csv")] == names
    assert "Accuracy" in capsys.readouterr().out


def test_the_error_of_values_is_in_the_unit_of_the_targets(values, capsys):
    assert main(predict("--truth=measured", "--html=page.html", new="new.csv")) == 0
    written = rows("predictions.csv")
    errors = np.array([float(row["value"]) - float(row["truth"]) for row in written])
    assert [row["truth"] for row in written] == ["0.5", "1", "3"]
    shown = capsys.readouterr().out
    root, mean = np.sqrt((errors**2).mean()), abs(errors).mean()
    assert f"Root of the mean squared error {root:.4g}, mean absolute error {mean:.4g} (3 inputs)" in shown
    page = Path("page.html").read_text(encoding="utf-8")
    assert f"<td>{float(written[0]['value']):.6g}</td>" in page
    assert "least certain" not in page


class Elements(HTMLParser):
    """The pictures of a page and the words of its cards, in their order."""

    def __init__(self):
        super().__init__()
        self.pictures, self.cards, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [value for key, value in given.items() if key in ("src", "href")]
        if tag == "img":
            data = base64.b64decode(given["src"].removeprefix("data:image/png;base64,"))
            self.pictures.append(np.asarray(Image.open(io.BytesIO(data))))
        if "card" in given.get("class", "").split():
            self.cards.append([given["class"]])

    def handle_data(self, data):
        if self.cards and data.strip():
            self.cards[-1].append(data.strip())


def test_the_page_holds_support_set_and_predictions_least_certain_first(ready):
    assert main(predict("--truth=new", "--html=pages/<b>.html")) == 0
    text = Path("pages/<b>.html").read_text(encoding="utf-8")
    page = Elements()
    page.feed(text)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)  # it needs no other file
    assert "<script" not in text
    support, _ = letters()
    order = sorted(NAMES)
    by_class = [row for name in order for row in (support.y == NAMES.index(name)).nonzero().flatten().tolist()]
    expected = [255 - support.x[row, 0].numpy() for row in by_class]  # dark on bright, as the files are
    assert len(page.pictures) == 10 + 20
    assert all(np.array_equal(one, other) for one, other in zip(page.pictures[:10], expected, strict=True))
    written = {row["file"]: row for row in rows("predictions.csv")}
    shown = [next(word for word in card if word in written) for card in page.cards]
    confidence = [max(float(written[file][name]) for name in order) for file in shown]
    assert confidence == sorted(confidence)
    assert len({*shown}) == 20
    for card, file, picture in zip(page.cards, shown, page.pictures[10:], strict=True):
        row = written[file]
        assert ("wrong" in card[0].split()) == (row["class"] != row["truth"])
        assert row["class"] == card[1]
        assert f"truth: {row['truth']}" in card
        assert np.array_equal(picture, np.asarray(Image.open(Path("new", file))))


def test_names_are_text_on_the_page(trained):
    support, _ = letters()
    for label, name in ((0, "<i>&"), (1, "b")):
        for number, pixels in enumerate(support.x[support.y == label]):
            folder = Path("support", name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(folder / f"{number}.png")
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", "--support=support"]) == 0
    assert main(predict("--html=page.html", "--truth=support", new="support")) == 0
    text = Path("page.html").read_text(encoding="utf-8")
    assert "<i>" not in text
    assert "&lt;i&gt;&amp;" in text


def test_a_truth_that_does_not_fit_is_refused(ready, capsys):
    first = sorted(str(path.relative_to("new")) for path in Path("new").rglob("*.png"))[0]
    Path("unknown.csv").write_text(f"file,class\n{first},a b\nx.png,dog\n")
    Path("twice.csv").write_text(f"file,class\n{first},c\n{first},d\n")
    Path("others.csv").write_text("file,class\nx.png,c\n")
    Path("headed.csv").write_text("path,class\nx.png,c\n")
    shutil.copytree("new", "renamed")
    Path("renamed/c").rename("renamed/dog")
    for truth, message in {
        "unknown.csv": "unknown.csv: row 3 has the class 'dog', which the support set did not have; it had a b, c, d, "
        "e, über: correct it, or leave it out",
        "twice.csv": f"twice.csv: row 3 is the second of {first}; remove one of them",
        "others.csv": "--truth others.csv: it has none of the 20 inputs, of which the first is",
        "headed.csv": "headed.csv has no column 'file'; it has path, class",
        "renamed": "renamed/dog/",
        "nowhere": "--truth nowhere: no such file or folder; expected a CSV file with the columns file and class",
    }.items():
        assert refused(predict(f"--truth={truth}", "--html=page.html"), capsys).startswith(message), truth
    assert refused(predict("--html=predictions.csv"), capsys).startswith("--html and --output are both")
    assert refused(predict("--html=/proc/page.html"), capsys).startswith("/proc/page.html can't be written")


def test_a_truth_of_values_that_does_not_fit_is_refused(values, capsys):
    Path("words.csv").write_text("row,value\n2,1\n3,much\n")
    assert refused(predict("--truth=words.csv", new="new.csv"), capsys) == (
        "words.csv: row 3 has the value 'much'; expected a finite number"
    )
    assert refused(predict("--truth=weight", new="new.csv"), capsys) == (
        "new.csv has no column 'weight'; it has x, measured: correct --truth"
    )


def test_inputs_unlike_the_support_set_are_noted(ready, capsys):
    _, query = letters()
    write_pictures(Path("inverted"), query._replace(x=255 - query.x))
    assert main(predict(new="inverted")) == 0
    assert re.search(r"Note: the inputs of inverted are unlike the support set \(mean 0\.8", capsys.readouterr().out)
    assert main(predict()) == 0
    assert "Note" not in capsys.readouterr().out
    assert torch.load("adapted.pt", weights_only=True)["inputs"][""]["mean"] < 0.3
