"""The smallest run that the command line makes, as YAML; a test adds loggers, callbacks and what else it tries."""

TINY = """
model:
  class_path: MAMLModule
  init_args:
    net: {class_path: MLP, init_args: {in_features: 1, out_features: 1, hidden: [4]}}
    check_derivative: false
data: {source: {class_path: Sinusoid}, shots: 5, queries: 5, meta_batch_size: 2, val_tasks: 2, test_tasks: 2}
figures: {every_n_validations: 0}
report: {baselines: false}
trainer:
  max_steps: 4
  val_check_interval: 2
  log_every_n_steps: 1
  accelerator: cpu
"""
