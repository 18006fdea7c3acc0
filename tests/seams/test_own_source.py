"""Somebody else's source of data, driven through the command line."""

from pathlib import Path

import pytest

from meta_lightning.cli import main

CONFIG = """
model:
  class_path: ProtoNetModule
  init_args: {net: {class_path: MLP, init_args: {in_features: 4, hidden: [8]}}}
data:
  source: {class_path: tests.data.test_class_table.Vectors}
  ways: 3
  shots: 2
  queries: 3
  meta_batch_size: 2
  val_tasks: 4
  test_tasks: 4
trainer:
  max_steps: 2
  val_check_interval: 2
  num_sanity_val_steps: 0
  logger: {class_path: TensorBoardLogger, init_args: {save_dir: logs, name: vectors/protonet}}
checkpoint: {monitor: val/accuracy}
"""


def test_float_vectors_in_unequal_classes_train_and_test(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text(CONFIG)
    assert main(["fit", "--config=own.yaml"]) == 0
    assert main(["test", "--config=own.yaml", "--ckpt_path=best"]) == 0
    said = capsys.readouterr().out
    assert said.count("Note: 1 class has fewer than 5 examples in split 'train' and is left out: train0 (3)") == 1
    assert "nearest class mean" in said  # a baseline for points in space, whatever they are
    assert Path("logs/vectors/protonet/version_0/test_report.json").is_file()
