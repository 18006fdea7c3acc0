"""From a folder of examples to predictions: `adapt`, `predict`, and the same from Python."""

import csv
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from meta_lightning import ConfigError, load_run
from meta_lightning.cli import main
from meta_lightning.engine.adaptable import adapt_to
from meta_lightning.runs.adapted import Adapted

from ..cli.test_bad_input import refused
from .trained import ALGORITHMS, NAMES, letters, write_pictures

PICTURED = [name for name in ALGORITHMS if name != "sinusoid"]


def rows(path: Path | str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


@pytest.fixture
def folders() -> tuple[Path, Path]:
    """A support set and new pictures, in folders whose names are no plain words."""
    support, query = letters()
    return write_pictures(Path("süpport set"), support), write_pictures(Path("new pictures"), query)


@pytest.mark.parametrize("name", PICTURED)
def test_predictions_of_the_file_are_those_of_the_module(name, trained, folders):
    support, new = folders
    assert main(["adapt", f"--ckpt_path={trained(name)}", f"--support={support}", "--output=ädapted.pt"]) == 0
    for size in (1, 100):
        options = [f"--input={new}", f"--output={size}.csv", f"--batch_size={size}"]
        assert main(["predict", "--adapted=ädapted.pt", *options]) == 0
    written, alone = rows("100.csv"), rows("1.csv")
    order = sorted(NAMES)
    assert [*written[0]] == ["file", "class", *order]

    module, (own, query) = load_run(trained(name)).module, letters()
    words = [NAMES[label] for label in own.y.tolist()]
    files = sorted(f"{NAMES[label]}/{number:03}.png" for number, label in enumerate(query.y.tolist()))
    # The examples come in the order of the files, which the mini-batches of some methods depend on.
    by_name = sorted(range(len(words)), key=lambda row: (words[row], row))
    net = module.adapt(own.x[by_name] / 255, [words[row] for row in by_name])
    at = [int(file[-7:-4]) for file in files]
    with torch.no_grad():
        expected = net(query.x[at] / 255).softmax(1)
    assert [row["file"] for row in written] == files
    values = torch.tensor([[float(row[word]) for word in order] for row in written])
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    assert [row["class"] for row in written] == [order[answer] for answer in expected.argmax(1)]
    both = zip(written, alone, strict=True)
    assert all(abs(float(one[word]) - float(other[word])) < 1e-6 for one, other in both for word in order)


def test_the_file_holds_plain_data_and_what_it_takes_alone(trained, folders, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(trained("maml"), "run"))
    assert main(["adapt", f"--ckpt_path={folder}", f"--support={folders[0]}", "--output=a.pt"]) == 0
    content = torch.load("a.pt", weights_only=True)
    assert content["class_names"] == sorted(NAMES)
    assert content["method"]["class_path"].endswith("MAMLModule")
    assert not {"optimizer", "lr_scheduler"} & {*content["method"]["init_args"]}
    assert content["reader"]["init_args"]["image_size"] == 28
    assert content["support"]["x"] is None
    assert len(content["support"]["pictures"]) == 10
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert any(name.endswith(".mean") for name in content["state"])  # the batch norm of the support set
    shutil.rmtree(folder)
    shutil.rmtree(folders[0])
    assert main(["predict", "--adapted=a.pt", f"--input={folders[1]}"]) == 0
    assert len(rows("predictions.csv")) == 20
    monkeypatch.chdir(tmp_path)
    one = next(folders[1].rglob("*.png"))
    assert main(["predict", "--adapted=a.pt", f"--input={one}", "--output=one.csv"]) == 0
    (alone,) = rows("one.csv")
    (same,) = [row for row in rows("predictions.csv") if row["file"] == str(one.relative_to(folders[1]))]
    assert alone["class"] == same["class"]
    assert all(float(alone[word]) == pytest.approx(float(same[word]), abs=1e-6) for word in NAMES)


def test_the_hash_is_that_of_the_support_set(trained, folders):
    hashes = []
    for change in (False, False, True):
        if change:
            next(folders[0].rglob("*.png")).unlink()
        assert main(["adapt", f"--ckpt_path={trained('protonet')}", f"--support={folders[0]}"]) == 0
        hashes.append(torch.load("adapted.pt", weights_only=True)["support"]["hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_zip_a_list_and_arrays_are_read_as_the_folder_is(trained, folders):
    support, new = folders
    files = sorted(support.rglob("*.png"))
    with zipfile.ZipFile("support.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(support))
    lines = [f"{file},{file.parent.name}" for file in files]
    Path("support.csv").write_text("\n".join(["file,class", *lines]), encoding="utf-8")
    examples, _ = letters()
    names = [NAMES[label] for label in examples.y.tolist()]
    np.savez("support.npz", x=255 - examples.x[:, 0].numpy(), y=names)
    results = []
    for path in (support, "support.zip", "support.csv", "support.npz"):
        assert main(["adapt", f"--ckpt_path={trained('protonet')}", f"--support={path}"]) == 0
        assert main(["predict", "--adapted=adapted.pt", f"--input={new}"]) == 0
        results.append(rows("predictions.csv"))
    assert results[0] == results[1] == results[2] == results[3]
    _, query = letters()
    np.savez("new.npz", x=255 - query.x.permute(0, 2, 3, 1).numpy())
    assert main(["predict", "--adapted=adapted.pt", "--input=new.npz", "--output=arrays.csv"]) == 0
    answers = {int(row["file"][-7:-4]): row["class"] for row in results[0]}
    assert {int(row["file"]): row["class"] for row in rows("arrays.csv")} == answers


def test_what_adapt_shows(trained, folders, capsys):
    assert main(["adapt", f"--ckpt_path={trained('maml')}", f"--support={folders[0]}", "--steps=20"]) == 0
    shown = capsys.readouterr().out
    module, own = load_run(trained("maml")).module, letters()[0]
    names = [NAMES[label] for label in own.y.tolist()]
    metrics = adapt_to(module, own.x / 255, names, steps=20, measure=True).metrics
    for step in (0, 20):
        assert f"│ {step:4} │ {metrics[step]['loss']:6.4f} │" in shown
    assert shown.count("│") == 4 * 12  # of 21 steps
    assert "Note: the run was trained with model.batch_norm: transductive, but predictions use the" in shown
    assert "Leave-one-out accuracy: " in shown
    assert torch.load("adapted.pt", weights_only=True)["method"]["init_args"]["eval_inner_steps"] == 20


def test_leaving_one_out_predicts_each_from_the_others(trained, capsys):
    support, _ = letters()
    keep = [0, *range(2, len(support.y))]  # one class has a single example
    support = support._replace(x=support.x[keep], y=support.y[keep])
    write_pictures(Path("few"), support)
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", "--support=few"]) == 0
    shown = capsys.readouterr().out
    module = load_run(trained("protonet")).module
    hits = []
    for row in range(1, len(keep)):
        others = torch.arange(len(keep)) != row
        net = module.adapt(support.x[others] / 255, support.y[others])
        hits.append(net.class_names[net(support.x[[row]] / 255).argmax()] == support.y[row])
    assert (
        f"Leave-one-out accuracy: {sum(hits) / len(hits):.2%}, each of the examples predicted from the others "
        "(1 are alone in their class" in shown
    )
    assert "batch_norm" not in shown
    single = support._replace(x=support.x[1:3], y=torch.tensor([0, 1]))
    write_pictures(Path("single"), single)
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", "--support=single"]) == 0
    assert "Each class has one example, so none can be left out" in capsys.readouterr().out


def test_pictures_unlike_those_of_the_training_are_noted(trained, capsys):
    support, _ = letters()
    small = F.interpolate(support.x.float(), 20).to(torch.uint8)
    write_pictures(Path("inverted"), support._replace(x=255 - small))
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", "--support=inverted"]) == 0
    shown = capsys.readouterr().out
    assert "10 of 10 pictures are smaller than the 28x28 of the training and are enlarged, the first" in shown
    assert "(20x20)" in shown
    assert "Note: the inputs of inverted are unlike those of the training (mean 0.8" in shown
    write_pictures(Path("alike"), support)
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", "--support=alike"]) == 0
    assert "Note" not in capsys.readouterr().out


def test_best_is_found_by_the_config(trained, repository, folders, capsys):
    path = trained("maml") / "config.yaml"
    assert main(["adapt", "--ckpt_path=best", f"--config={path}", f"--support={folders[0]}"]) == 0
    assert f"Checkpoint: {trained('maml') / 'checkpoints/best.ckpt'}" in capsys.readouterr().out
    where = refused(["adapt", "--ckpt_path=best", f"--support={folders[0]}"], capsys)
    assert where.startswith("--ckpt_path best needs --config, which says where the runs are")
    Path("broken.yaml").write_text("a: 1\na: 2\n")
    assert "broken.yaml" in refused(["adapt", "--ckpt_path=best", "--config=broken.yaml", "--support=x"], capsys)
    Path("empty.yaml").write_text("model: 3\n")
    assert "has no section trainer" in refused(
        ["adapt", "--ckpt_path=best", "--config=empty.yaml", f"--support={folders[0]}"], capsys
    )


def test_values_are_predicted_in_the_unit_of_the_targets(trained, capsys):
    Path("support.csv").write_text("x,y,note\n-3,1,a\n-1,-0.5,b\n0,0.2,c\n1,1,d\n2,2,e\n")
    Path("new.csv").write_text("x\n-2\n0.5\n")
    assert main(["adapt", f"--ckpt_path={trained('sinusoid')}", "--support=support.csv"]) == 0
    shown = capsys.readouterr().out
    assert main(["predict", "--adapted=adapted.pt", "--input=new.csv"]) == 0
    x, y = torch.tensor([[-3.0], [-1.0], [0.0], [1.0], [2.0]]), torch.tensor([[1.0], [-0.5], [0.2], [1.0], [2.0]])
    run = load_run(trained("sinusoid"))
    net, new = run.module.adapt(x, y), torch.tensor([[-2.0], [0.5]])
    written = rows("predictions.csv")
    assert [row["row"] for row in written] == ["2", "3"]
    assert [float(row["value"]) for row in written] == pytest.approx(net(new).flatten().tolist(), abs=1e-6)
    errors = [run.module.adapt(x[other := torch.arange(5) != row], y[other])(x[[row]]) - y[row] for row in range(5)]
    assert f"Leave-one-out error (root of the mean square): {torch.cat(errors).square().mean().sqrt():.4g}" in shown
    # A reader with another unit, as that of a table.
    content = torch.load("adapted.pt", weights_only=True)
    content["reader"]["init_args"] |= {"target_mean": 50.0, "target_deviation": 10.0}
    torch.save(content, "scaled.pt")
    scaled = Adapted.load("scaled.pt").predict("new.csv").values
    torch.testing.assert_close(scaled, 50 + 10 * net(new), rtol=0, atol=1e-4)


def test_a_run_predicts_from_python(trained, folders):
    run = load_run(trained("protonet"))
    predictions = run.predict(*folders)
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", f"--support={folders[0]}"]) == 0
    again = Adapted.load("adapted.pt").predict(folders[1])
    assert predictions.answers == again.answers
    torch.testing.assert_close(predictions.values, again.values, rtol=0, atol=1e-6)
    with torch.inference_mode():
        inside = run.predict(folders[0], letters()[1].x / 255)
    torch.testing.assert_close(inside.values.sum(1), torch.ones(20))
    assert sorted(inside.confidence) == pytest.approx(sorted(predictions.confidence), abs=1e-6)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def test_an_adapted_file_that_is_none_is_refused(trained, folders, capsys):
    assert main(["adapt", f"--ckpt_path={trained('protonet')}", f"--support={folders[0]}", "--output=a.pt"]) == 0
    content = torch.load("a.pt", weights_only=True)
    changed = {
        "newer": {**content, "adapted": 2, "versions": {"meta_lightning": "9.1"}},
        "other": {"a": 1},
        "torn": {**content, "state": 3},
        "lacks": {**content, "state": {}},
        "narrow": {**content, "support": {}},
        "method": {**content, "method": {"class_path": "os.system", "init_args": {"command": "touch touched"}}},
        "reader": {**content, "reader": {"class_path": "os.system", "init_args": {"command": "touch touched"}}},
        "gone": {**content, "method": {**content["method"], "class_path": "gone.Method"}},
    }
    for name, value in changed.items():
        torch.save(value, f"{name}.pt")
    Path("cut.pt").write_bytes(Path("a.pt").read_bytes()[:9000])
    torch.save({**content, "state": Evil()}, "evil.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Evil()))
    best = trained("protonet") / "checkpoints/best.ckpt"
    for path, message in {
        "newer.pt": "newer.pt is an adapted file of version 2, written by meta_lightning 9.1; this is 0.1.0, which "
        "reads version 1: adapt again with this version, or install that one",
        "other.pt": "other.pt is no adapted file; expected a file that the command adapt wrote: check --adapted",
        "torn.pt": "torn.pt: state is 3; adapt again",
        "lacks.pt": "lacks.pt does not fit the net that was built for it: Error(s) in loading state_dict",
        "narrow.pt": "narrow.pt does not fit the net that was built for it: 'x'; adapt again",
        "method.pt": "os.system is not a MetaModule; expected a class derived from it",
        "reader.pt": "os.system is not a Reader; expected a class derived from it",
        "gone.pt": "gone.Method can't be imported (No module named 'gone'); run in the folder that the path starts",
        "cut.pt": "cut.pt can't be read (",
        "evil.pt": "evil.pt holds more than plain data and tensors, and was not run; expected an adapted file",
        "pickle.pt": "pickle.pt ",
        str(best): f"{best} is a checkpoint; expected a file that the command adapt wrote: adapt --ckpt_path {best}",
        "nowhere.pt": "--adapted nowhere.pt: no such file; expected a file that the command adapt wrote",
    }.items():
        assert refused(["predict", f"--adapted={path}", f"--input={folders[1]}"], capsys).startswith(message)
    assert not Path("touched").exists()


def test_a_support_set_that_can_not_be_used_is_refused(trained, folders, capsys):
    support, new = folders
    Path("empty").mkdir()
    Path("one/a").mkdir(parents=True)
    shutil.copy(next(support.rglob("*.png")), "one/a")
    shutil.copytree(support, "corrupt")
    bad = sorted(Path("corrupt").rglob("*.png"))[4]
    bad.write_bytes(bad.read_bytes()[:60])
    shutil.copytree(support, "six")
    shutil.copytree("six/c", "six/f")
    Path("list.csv").write_text("file,class\nno.png,a\n")
    Path("headed.csv").write_text("picture,class\nno.png,a\n")
    np.savez("floats.npz", x=np.zeros((4, 28, 28)), y=[0, 0, 1, 1])
    np.savez("flat.npz", x=np.zeros((4, 7), np.uint8), y=[0, 0, 1, 1])
    Path("words.csv").write_text("x,y\n1,2\n2,many\n3,4\n")
    Path("gaps.csv").write_text("x,y\n1,2\n2,\n3,4\n")
    Path("lacks.csv").write_text("x,z\n1,2\n")
    for name, path, message in (
        ("protonet", "empty", "--support: empty holds no pictures"),
        ("protonet", "nowhere", "--support: there is no nowhere; expected"),
        ("protonet", "one", "one: the support set has one class (a); expected examples of 2 classes or more"),
        ("protonet", "corrupt", f"{bad} does not decode ("),
        ("maml", "six", "six: the support set has 6 classes, but model.net has 5 outputs"),
        ("protonet", "list.csv", "list.csv: row 2: there is no no.png; expected paths of pictures from the folder"),
        ("protonet", "headed.csv", "headed.csv has no column 'file'; it has picture, class"),
        ("protonet", "floats.npz", "floats.npz: array 'x' holds float64; expected pictures in bytes"),
        ("protonet", "flat.npz", "flat.npz: array 'x' has shape [4, 7]; expected pictures [pictures, height, wi"),
        ("sinusoid", "words.csv", "words.csv: row 3, column 'y' is 'many', but most of the column are numbers"),
        ("sinusoid", "gaps.csv", "gaps.csv: row 3, column 'y' has no value; fill it in"),
        ("sinusoid", "lacks.csv", "lacks.csv has no column 'y'; it has x, z"),
    ):
        arguments = ["adapt", f"--ckpt_path={trained(name)}", f"--support={path}", "--output=a.pt"]
        assert refused(arguments, capsys).startswith(message), path
    ready = ["adapt", f"--ckpt_path={trained('protonet')}", f"--support={support}"]
    assert refused([*ready, "--output=/proc/a.pt"], capsys).startswith("/proc/a.pt can't be written")
    assert refused([*ready, "--steps=3"], capsys).startswith("süpport set: steps is 3, but ProtoNetModule has no")
    assert refused(["adapt", "--ckpt_path=no", f"--support={support}"], capsys).startswith("--ckpt_path no: no such")
    assert refused(["adapt", f"--support={support}"], capsys) == "adapt: the command line lacks ckpt_path; set it there"
    assert main([*ready, "--output=a.pt"]) == 0
    for more, message in (
        ([f"--input={new}", "--batch_size=0"], "--batch_size is 0; expected 1 or more"),
        (["--input=empty"], "--input: empty holds no pictures"),
        (["--input=corrupt"], f"{bad} does not decode ("),
        ([f"--input={new}", "--output=/proc/a.csv"], "/proc/a.csv can't be written"),
    ):
        assert refused(["predict", "--adapted=a.pt", *more], capsys).startswith(message)


def test_a_run_whose_source_states_no_reader_says_so(trained):
    run = load_run(trained("sinusoid"))
    bare = run._replace(record=run.record._replace(data={}))
    with pytest.raises(ConfigError, match=r"states no reader, so files can't be prepared.*adapt and predict from Py"):
        bare.predict("support.csv", torch.zeros(1, 1))
