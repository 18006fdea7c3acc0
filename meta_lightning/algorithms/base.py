"""The abstract base class of all algorithms."""

from abc import abstractmethod
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import currentframe
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from meta_lightning.engine import outer_loop, recipes
from meta_lightning.engine.adaptable import AdaptableModule
from meta_lightning.engine.compiling import COMPILER, ChunkStep, Compiler, choose_backend, compiled
from meta_lightning.engine.distributed import average_over_ranks, check_trainer, diverged
from meta_lightning.engine.evaluation import averages, before_adaptation, measure
from meta_lightning.engine.evaluation_plan import CurveOf, EvaluationPlan, make_plan
from meta_lightning.engine.finite import FiniteEvaluation
from meta_lightning.engine.prepare_net import prepare_net
from meta_lightning.engine.run_start import start_run
from meta_lightning.engine.trainer_parts import callbacks_of, log_interval
from meta_lightning.engine.training_record import note_training
from meta_lightning.errors import ConfigError, DivergedError
from meta_lightning.functional import norm
from meta_lightning.functional.attention import differentiable_attention
from meta_lightning.functional.inputs import replaced
from meta_lightning.functional.params import strip_prefix
from meta_lightning.functional.task_kind import Loss, LossName, TaskKind, kind_of, resolve_loss
from meta_lightning.functional.tasks import Backend, Loop, chunk_gradient, count, mean_over_chunks
from meta_lightning.types import Buffers, Metrics, Objective, Params, Prediction, Task


class MetaModule(AdaptableModule):
    """A meta-learning algorithm as a LightningModule.

    A subclass implements two pure functions of one task, `objective` and `curve`. This class maps them over tasks,
    averages over tasks and processes, steps the outer optimizer once per meta-batch, evaluates and logs.

    Args:
        net: The model to meta-learn: any module from ``[examples, *shape]`` to ``[examples, out]``. Only its
            normalisation layers are changed, see `prepare_net`. Parameters that require no gradient stay fixed in both
            loops.
        optimizer: The outer optimizer.
        lr_scheduler: The schedule of the outer learning rate, stepped once per meta-step.
        loss: The loss, averaged over a task's examples: a name, a module or a function of predictions and targets.
            ``auto`` is cross-entropy for class labels and squared error for values. The outer loop learns the
            parameters of a module.
        batch_norm: The batch-norm protocol: the source of the statistics, see `meta_lightning.functional.norm`.
        task_loop: How to map over the tasks of a meta-batch: ``vmap``, ``loop`` or ``split``, see `Backend`. All of
            them give the same gradient; the command ``benchmark`` compares their speed and memory.
        task_chunk: The number of tasks that vmap processes at once; null for all.
        compile: Compile the meta-step with `torch.compile` at the start of ``fit``, which pays off for long runs. The
            compiled step does not notice later changes of the settings or of which layers are in eval mode.
        grad_clip: The largest norm of the meta-gradient; null for no limit.
        grad_clip_value: The largest absolute value of the meta-gradient's entries; null for no limit.
        check_finite_every: Meta-steps between two checks that loss and meta-gradient are finite. With 1, a run stops
            before the weights change. With a larger number the host waits less often for a GPU, but the weights may be
            spoilt before the run stops.
        inner_autocast: Also adapt in lower precision under ``bf16-mixed``. Inner gradients then lose most of their
            digits.
        check_derivative: Compare the derivatives of the net with finite differences before training. Turn this off for
            a net whose gradient differs from its derivative on purpose, such as one with a straight-through estimator.

    Raises:
        ConfigError: If a count is below 1, a limit of the gradient is not above 0, or ``split`` is to be compiled.

    Example:
        Joint training, which predicts without adaptation:

        >>> class JointTraining(MetaModule):
        ...     def curve(self, params, buffers, task):
        ...         yield Prediction(self.predict, strip_prefix(params, "net."), task)
        ...     def objective(self, params, buffers, task, step):
        ...         metrics = self.metrics(next(self.curve(params, buffers, task))(), task.query.y)
        ...         return Objective(metrics["loss"], metrics)
        >>> list(JointTraining(nn.Linear(1, 1)).learnable())
        ['net.weight', 'net.bias']
    """

    has_inner_loop: ClassVar[bool] = False
    """Whether the method adapts in steps, so that it has metrics before and after adaptation."""

    @property
    def second_order(self) -> bool:
        """Whether the meta-gradient is the derivative of `objective` and takes second derivatives of the net.

        If so, attention uses a kernel that has them, and finite differences of the objective check the gradient before
        training. A method that stops gradients in its objective, or needs first derivatives only, says False.
        """
        return True

    net_predicts: ClassVar[bool] = True
    """Whether the net's outputs are the predictions, one column per class; otherwise the outputs are features."""

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: LossName | nn.Module | Loss = "auto",
        batch_norm: norm.Protocol = "transductive",
        task_loop: Loop = "vmap",
        task_chunk: int | None = None,
        compile: bool = False,
        grad_clip: float | None = None,
        grad_clip_value: float | None = None,
        check_finite_every: int = 1,
        inner_autocast: bool = False,
        check_derivative: bool = True,
    ) -> None:
        super().__init__()
        self._arguments = recipes.constructor_arguments(MetaModule, currentframe())
        outer_loop.check_gradient_limits(check_finite_every, grad_clip=grad_clip, grad_clip_value=grad_clip_value)
        prepare_net(net, batch_norm, compile=compile)
        self.automatic_optimization = False
        self.net = net
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.loss = loss
        self.batch_norm: norm.Protocol = batch_norm
        self.set_backend(choose_backend(task_loop, task_chunk, compile=compile))
        self.grad_clip, self.grad_clip_value = grad_clip, grad_clip_value
        self.check_finite_every = check_finite_every
        self.inner_autocast = inner_autocast
        self.check_derivative = check_derivative
        # The signal that this process received, and the signal that all processes agreed to end on; 0 for none.
        self.stop_requested = self.stop_agreed = 0
        self.step_seed = torch.initial_seed()
        self.trained_with = {}
        self.compile_in_fit = compile
        self._plans: dict[Hashable, EvaluationPlan] = {}

    @abstractmethod
    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> Objective:
        """The scalar whose gradient with respect to ``params`` is this task's meta-gradient.

        The function must be pure, because it runs under `torch.func.vmap`, `torch.func.grad` and `torch.compile`. A
        method whose meta-gradient is not the derivative of a loss returns ``sum(params * gradient.detach())``.

        Args:
            params: The meta-learned parameters, named as in ``named_parameters()``.
            buffers: The carried buffers, named as in ``named_buffers()``.
            task: One episode.
            step: The number of the meta-step, a scalar tensor.
        """

    @abstractmethod
    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """Predicts the queries of one task after 0, 1, ... adaptation steps, as in evaluation.

        Args:
            params: The meta-learned parameters.
            buffers: The carried buffers.
            task: One episode. The method must not use the targets of its queries.

        Yields:
            A prediction ``[queries, out]`` before the first step and after each step. It is computed when it is called;
            validation calls only the first and the last.
        """

    def gather(self, params: Params, buffers: Buffers, tasks: Task, step: Tensor) -> Task:
        """Prepares a meta-batch before a meta-step or an evaluation; by default, it returns the tasks unchanged.

        A method whose data depend on the parameters, such as on-policy episodes, overrides this method to collect them.
        Gradients do not pass through it.

        Args:
            params: The meta-learned parameters, detached.
            buffers: The carried buffers.
            tasks: A meta-batch, ``[tasks, ...]``.
            step: The number of the meta-step, a scalar tensor.
        """
        return tasks

    def task_kind(self, targets: Tensor) -> TaskKind:
        """The kind of a task with these targets."""
        return kind_of(targets)

    def loss_of(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over examples, a scalar."""
        return resolve_loss(self.loss, self.task_kind(targets))(predictions, targets)

    def task_objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> Objective:
        """`objective`, in which `loss_of` uses the loss's parameters of ``params``."""
        with self.loss_parameters(strip_prefix(params, "loss.")):
            objective = self.objective(params, buffers, task, step)
        if not isinstance(objective, Objective) or objective.loss.ndim:
            is_loss = isinstance(objective, Objective)
            found = f"a loss of shape {list(objective.loss.shape)}" if is_loss else type(objective).__name__
            raise ConfigError(
                f"{type(self).__name__}.objective returns {found}; expected meta_lightning.types.Objective(loss, "
                "metrics), whose loss is one number"
            )
        return objective

    def loss_parameters(self, params: Params) -> AbstractContextManager[None]:
        """Lets `loss_of` use these parameters of the loss, by their own names, while the context lasts."""
        return replaced(self.loss, params) if params and isinstance(self.loss, nn.Module) else nullcontext()

    def metrics(self, predictions: Tensor, targets: Tensor) -> Metrics:
        """The loss and the kind's metric of predictions ``[examples, out]``, as scalars."""
        kind = self.task_kind(targets)
        return {"loss": self.loss_of(predictions, targets), kind.metric: kind.measure(predictions, targets)}

    def judge(self, adapted: Params, predictions: Tensor, targets: Tensor) -> Metrics:
        """`metrics` of predictions that were made with adapted parameters."""
        return self.metrics(predictions, targets)

    def learnable(self) -> Params:
        """The parameters that the outer loop learns, detached."""
        return {name: param.detach() for name, param in self.named_parameters() if param.requires_grad}

    def static_values(self) -> Hashable:
        """The settings that may change during a run. A compiled meta-step is compiled again when they change."""
        return ()

    def meta_step(self, params: Params, buffers: Buffers, tasks: Task, step: Tensor) -> tuple[Params, Buffers, Metrics]:
        """Computes the meta-gradient of a meta-batch. The function is pure: no parameter or buffer changes.

        Args:
            params: The meta-learned parameters, detached.
            buffers: The carried buffers.
            tasks: A meta-batch, ``[tasks, ...]``.
            step: The number of the meta-step, a scalar tensor.

        Returns:
            The gradient of the objective's mean over tasks; the new values of the buffers that change, averaged over
            tasks; and the metrics, ``[tasks]`` each.

        Example:
            >>> from meta_lightning import load_run
            >>> module, data, _ = load_run("logs/sinusoid/maml/version_0")
            >>> tasks = data.sample("validate")
            >>> gradient, _, metrics = module.meta_step(module.learnable(), {}, tasks, torch.tensor(0))
            >>> gradient["net.0.weight"].shape, metrics["loss"].shape
            (torch.Size([40, 1]), torch.Size([1]))
        """
        run = self._chunk_step
        with differentiable_attention(twice=self.second_order):
            grads, (carried, metrics) = mean_over_chunks(lambda c: run(params, buffers, c, step), tasks, self.backend)
        changed = {name: value.mean(0) if value.is_floating_point() else value[0] for name, value in carried.items()}
        return grads, changed, metrics

    def chunk_step(self, params: Params, buffers: Buffers, chunk: Task, step: Tensor) -> tuple[Params, Any]:
        """The mean gradient of the tasks of one chunk, and the changed buffers and metrics of each task."""

        def objective(params: Params, task: Task) -> tuple[Tensor, Any]:
            loss, metrics, changed = self.task_objective(params, buffers, task, step)
            return loss, (changed, metrics)

        return chunk_gradient(objective, params, chunk, self.backend)

    def set_backend(self, backend: Backend, *, compiler: Compiler | None = None) -> None:
        """Sets how to map over tasks from now on, and the compiler of the meta-step; None for no compilation."""
        self.backend = backend
        norm.fuse(self.net, on=not backend.batched)
        self._chunk_step: ChunkStep = self.chunk_step
        if compiler:
            self._chunk_step = compiled(self.chunk_step, compiler, self.device, self.static_values)

    def training_step(self, tasks: Task, batch_idx: int) -> None:
        """Takes one meta-step: gradient, average over processes, finite check, outer update and logging."""
        # For dropout. The seed depends on the step, so a resumed run draws the numbers of an uninterrupted one.
        outer_loop.reseed(self.step_seed + 1_000_003 * self.global_step + self.global_rank, self.device)
        log_now = (self.global_step + 1) % max(log_interval(self.trainer), 1) == 0
        step = torch.full((), self.global_step, device=self.device)  # created there: the host need not wait for a copy
        params, buffers = self.learnable(), dict(self.named_buffers())
        tasks = self.gather(params, buffers, tasks, step)
        grads, changed, metrics = self.meta_step(params, buffers, tasks, step)
        means = {f"train/{name}": values.mean() for name, values in metrics.items()}
        before = {}
        if log_now and self.has_inner_loop:
            with differentiable_attention(twice=False):
                before = before_adaptation(self._curve(), self.net, self.judge, tasks, self.backend)
        finite, self.stop_agreed = average_over_ranks(
            [*grads.values(), *filter(torch.is_floating_point, changed.values()), *means.values()],
            [*before.values()], self.trainer,
            step=self.global_step, check_every=self.check_finite_every, stop=self.stop_requested,
        )  # fmt: skip
        if not finite:
            raise DivergedError(self.global_step + 1, diverged(tasks, metrics, self.trainer), self.check_finite_every)
        for name, value in changed.items():
            buffers[name].copy_(value)
        outer_loop.update(self, grads, self.grad_clip, self.grad_clip_value)
        if log_now:
            self.log("train/loss", means.pop("train/loss"), prog_bar=True, batch_size=count(tasks))
            self.log_dict(means | before, batch_size=count(tasks))

    def setup(self, stage: str) -> None:
        """Refuses a trainer whose precision or strategy does not support meta-gradients."""
        check_trainer(self.trainer)

    def parameter_groups(self) -> list[nn.Parameter] | list[dict[str, Any]]:
        """The learned parameters for the outer optimizer, or groups of them with their own settings."""
        return [param for param in self.parameters() if param.requires_grad]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the outer optimizer and its schedule."""
        optimizer = self.optimizer(self.parameter_groups())
        if self.lr_scheduler is None:
            return optimizer
        return [optimizer], [outer_loop.make_schedule(self.lr_scheduler, optimizer)]

    def configure_callbacks(self) -> list[Callback]:
        """Checks the run and returns the callbacks that every trainer needs; Lightning calls it first in each run."""
        added = [FiniteEvaluation(), *start_run(self)]
        present = {type(callback) for callback in callbacks_of(self.trainer)}
        return [callback for callback in added if type(callback) not in present]

    def on_fit_start(self) -> None:
        """Wraps the meta-step for compilation, once the net is on its device and is not copied any more."""
        if self.compile_in_fit:
            self.set_backend(self.backend, compiler=COMPILER)

    def on_fit_end(self) -> None:
        """Discards the compiled meta-step, which can't be pickled and would stay in copies with other settings."""
        self.set_backend(self.backend)

    def on_train_start(self) -> None:
        """Applies the optimizer settings that were changed for a resumed run."""
        outer_loop.apply_changes(self, self.trained_with, self.settings())
        note_training(self)

    def settings(self) -> dict[str, Any]:
        """The plain settings of this algorithm: its constructor's, those of its base classes, and the optimizer's.

        Example:
            >>> from meta_lightning import MAMLModule
            >>> settings = MAMLModule(nn.Linear(1, 1), inner_steps=5).settings()
            >>> settings["inner_steps"], settings["optimizer"], settings["optimizer.lr"]
            (5, 'Adam', 0.001)
        """
        settings = recipes.settings_of(self, self._arguments)
        if not isinstance(self.loss, str):
            settings["loss"] = recipes.described(self.loss)
        if not self.learnable():  # no optimizer takes an empty list
            return settings
        outer = outer_loop.outer_of(self.configure_optimizers())
        return settings | recipes.serializable(outer_loop.outer_settings(outer))

    def evaluate(self, tasks: Task, *, every_step: bool = True) -> Metrics:
        """Adapts to each task and measures it on its queries after 0, 1, ... steps.

        Args:
            tasks: A meta-batch, ``[tasks, ...]``.
            every_step: Measure after every step; otherwise only before the first and after the last, which is cheaper.

        Returns:
            ``index`` ``[tasks]``; ``loss`` and the kind's metric, ``[tasks, steps + 1]`` (``[tasks, 2]`` without
            ``every_step``); the kind's certainty after the last step, ``[tasks, queries]``.

        Example:
            >>> from meta_lightning import load_run
            >>> run = load_run("logs/sinusoid/maml/version_0")
            >>> run.module.evaluate(run.data.sample("test"))["mse"].shape  # one task, before and after 10 steps
            torch.Size([1, 11])
        """
        step = torch.full((), self.global_step, device=self.device)
        tasks = self.gather(self.learnable(), dict(self.named_buffers()), tasks, step)
        kind = self.task_kind(tasks.query.y)
        with torch.no_grad(), differentiable_attention(twice=False):
            plan = self._plan_of(tasks)
            results = measure(self._curve(), self.net, self.judge, kind, tasks, plan, every_step=every_step)
        return {"index": tasks.index, **results}

    def _curve(self) -> CurveOf:
        return partial(self.curve, self.learnable(), dict(self.named_buffers()))

    def _plan_of(self, tasks: Task) -> EvaluationPlan:
        """How to evaluate tasks of this shape: on the CPU by their sizes, elsewhere as in training."""
        if self.device.type != "cpu":
            return EvaluationPlan(self.backend)
        shapes = (self.backend, *(leaf.shape[1:] for leaf in tree_leaves(tasks) if leaf is not None))
        if shapes not in self._plans:
            self._plans[shapes] = make_plan(self._curve(), self.net, self.following, tasks, self.backend)
        return self._plans[shapes]

    def _evaluate_and_log(self, tasks: Task, stage: str) -> Metrics:
        results = self.evaluate(tasks, every_step=stage == "test")
        means = averages(results, stage, self.task_kind(tasks.query.y).metric, before=self.has_inner_loop)
        for name, value in means.items():
            bar = stage == "val" and not name.endswith("_before")
            self.log(name, value, batch_size=count(tasks), sync_dist=True, on_step=False, on_epoch=True, prog_bar=bar)
        return results

    def validation_step(self, tasks: Task, batch_idx: int) -> Metrics:
        """Logs the averages under ``val/`` and returns the results of each task, see `evaluate`, to the callbacks."""
        return self._evaluate_and_log(tasks, "val")

    def test_step(self, tasks: Task, batch_idx: int) -> Metrics:
        """Logs the averages under ``test/`` and returns the results of each task, see `evaluate`, to the callbacks."""
        return self._evaluate_and_log(tasks, "test")
