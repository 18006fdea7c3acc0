"""The abstract algorithm: everything about a meta-step that does not depend on the method."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from inspect import signature
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.func import functional_call

from meta_lightning.algorithms.adopt import adopt
from meta_lightning.algorithms.compiling import COMPILER, ChunkStep, Compiler, choose_backend, compiled
from meta_lightning.algorithms.evaluation import CurveOf, averages, before_adaptation, measure, predictions_of
from meta_lightning.algorithms.outer import check_limits, outer_settings, plain, reseed, schedule, update
from meta_lightning.algorithms.reduce import average_over_ranks, check_trainer, diverged
from meta_lightning.errors import DivergedError
from meta_lightning.functional import losses, norm
from meta_lightning.functional.adapt import adapt
from meta_lightning.functional.apart import apart
from meta_lightning.functional.rules import sgd
from meta_lightning.functional.tasks import Backend, Loop, chunk_gradient, count, mean_over_chunks
from meta_lightning.types import Buffers, Examples, Metrics, Params, Prediction, Rates, Task


class MetaModule(LightningModule, ABC):
    """A meta-learning algorithm as a LightningModule.

    A subclass supplies two pure functions of one task, `objective` and `curve`; this class maps them over tasks,
    averages, reduces over processes, steps the outer optimizer once per meta-batch, evaluates and logs.

    Args:
        net: The model to meta-learn: any module from ``[examples, *shape]`` to ``[examples, out]``, unchanged but for
            its batch-norm layers, which follow ``batch_norm``. What requires no gradient stays fixed in both loops.
        optimizer: The outer optimizer.
        lr_scheduler: Schedule of the outer rate, stepped once per meta-step.
        loss: Averages over a task's examples. ``auto``: cross-entropy for integer targets, squared error for floats.
        batch_norm: Where the statistics of a prediction come from, see `meta_lightning.functional.norm`.
        task_loop: ``vmap``, ``loop`` or ``split`` over the tasks of a meta-batch, see `Backend`: the same gradient,
            another speed and memory. The command ``benchmark`` says which is fastest.
        task_chunk: How many tasks vmap takes at once; null for all.
        compile: Compile the meta-step with `torch.compile`, once, at the start of `fit`. Pays off for long runs, in
            which settings must not change, nor which layers are in eval mode: the compiled step would not notice.
        grad_clip: Largest norm of the meta-gradient; null for no limit.
        grad_clip_value: Largest size of each entry of the meta-gradient; null for no limit.
        check_finite_every: Meta-steps between two checks that loss and meta-gradient are finite. With 1, a run stops
            before the weights are touched. More spares the host the wait for a GPU, and gives that up.
        inner_autocast: Adapt in lower precision too under ``bf16-mixed``: inner gradients lose most of their digits.

    Raises:
        ConfigError: If a count is below 1, a limit of the gradient not above 0, or ``split`` is to be compiled.
    """

    has_inner_loop: ClassVar[bool] = True
    """Whether there is a before and an after adaptation to tell apart."""

    net_predicts: ClassVar[bool] = True
    """Whether the net's outputs are the predictions, one column per class; else they are features of any width."""

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: losses.LossName | losses.Loss = "auto",
        batch_norm: norm.Protocol = "transductive",
        task_loop: Loop = "vmap",
        task_chunk: int | None = None,
        compile: bool = False,
        grad_clip: float | None = None,
        grad_clip_value: float | None = None,
        check_finite_every: int = 1,
        inner_autocast: bool = False,
    ) -> None:
        super().__init__()
        check_limits(check_finite_every, grad_clip=grad_clip, grad_clip_value=grad_clip_value)
        adopt(net, batch_norm)
        self.automatic_optimization = False
        self.net = net
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.loss = loss
        self.batch_norm: norm.Protocol = batch_norm
        self.use(choose_backend(task_loop, task_chunk, compile=compile))
        self.grad_clip, self.grad_clip_value = grad_clip, grad_clip_value
        self.check_finite_every = check_finite_every
        self.inner_autocast = inner_autocast
        self.stop_requested = self.stop_agreed = 0  # signals: what this process got, and what all end on
        self.step_seed = torch.initial_seed()
        self.compile_in_fit = compile

    @abstractmethod
    def objective(self, params: Params, buffers: Buffers, task: Task, step: Tensor) -> tuple[Tensor, Any]:
        """The scalar whose gradient in ``params`` is this task's meta-gradient.

        Pure: it must run under `torch.func.vmap`, `torch.func.grad` and `torch.compile`. A method whose meta-gradient
        is no derivative states it as one by stopping gradients (``sum(params * gradient.detach())``).

        Args:
            params: What is meta-learned, named as in ``named_parameters()``.
            buffers: What is carried, named as in ``named_buffers()``.
            task: One episode.
            step: The number of the meta-step, a scalar tensor.

        Returns:
            The scalar, and a pair: the buffers that change (averaged over tasks) and the metrics to log
            (see `figures`).
        """

    @abstractmethod
    def curve(self, params: Params, buffers: Buffers, task: Task) -> Iterator[Prediction]:
        """Predictions for the queries of one task after 0, 1, ... adaptation steps of evaluation.

        Args:
            params: What is meta-learned.
            buffers: What is carried.
            task: One episode; the targets of its queries are not to be used.

        Yields:
            What predicts ``[queries, out]``, at the start and after each step. Validation calls the first and the last.
        """

    def inner_loop(
        self, net_params: Params, task: Task, rates: Rates, steps: int, *, first_order: bool = True
    ) -> Iterator[Params]:
        """The net's parameters after 0, 1, ... steps of gradient descent on the support set."""

        def loss(trial: Params, step: int) -> Tensor:
            return self.support_loss(trial, task.support)

        for adapted, _ in adapt(loss, net_params, sgd(), rates, steps, first_order=first_order):
            yield adapted

    def support_loss(self, net_params: Params, support: Examples) -> Tensor:
        """The net's loss on support examples, with the statistics of that batch."""
        with nullcontext() if self.inner_autocast else torch.autocast(self.device.type, enabled=False):
            return self.loss_of(functional_call(self.net, net_params, (support.x,)), support.y)

    def predict(self, net_params: Params, task: Task) -> Tensor:
        """The net's predictions for the queries under ``batch_norm``, ``[queries, out]``."""
        batched = self.backend.batched
        return norm.predict(self.net, net_params, task.support.x, task.query.x, self.batch_norm, batched=batched)

    def loss_of(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over examples, a scalar."""
        return losses.resolve(self.loss, targets)(predictions, targets)

    def figures(self, predictions: Tensor, targets: Tensor) -> Metrics:
        """The loss and the metric of predictions ``[examples, out]``: what training logs."""
        metric = losses.metric(predictions, targets)
        return {"loss": self.loss_of(predictions, targets), losses.metric_name(targets): metric}

    def query_figures(self, net_params: Params, task: Task) -> Metrics:
        """The `figures` of the net's predictions for the queries; ``loss`` can be differentiated, once."""
        if self.backend.loop != "split":
            return self._judge(net_params, task)[1]
        with norm.fused(self.net):
            loss, figures = apart(self._judge, net_params, task)
        return figures | {"loss": loss}

    def _judge(self, net_params: Params, task: Task) -> tuple[Tensor, Metrics]:
        figures = self.figures(self.predict(net_params, task), task.query.y)
        return figures["loss"], figures

    def learnable(self) -> Params:
        """The parameters that the outer loop learns, detached."""
        return {name: param.detach() for name, param in self.named_parameters() if param.requires_grad}

    def meta_step(self, params: Params, buffers: Buffers, tasks: Task, step: Tensor) -> tuple[Params, Buffers, Metrics]:
        """The meta-gradient of a meta-batch: pure, and the unit that is compiled, timed and tested.

        Args:
            params: What is meta-learned, detached.
            buffers: What is carried.
            tasks: A meta-batch, ``[tasks, ...]``.
            step: The number of the meta-step, a scalar tensor.

        Returns:
            The gradient of the mean over tasks; the buffers that changed, averaged over tasks; metrics ``[tasks]``.
        """
        of_chunk = self._of_chunk
        grads, (carried, metrics) = mean_over_chunks(lambda c: of_chunk(params, buffers, c, step), tasks, self.backend)
        changed = {name: value.mean(0) if value.is_floating_point() else value[0] for name, value in carried.items()}
        return grads, changed, metrics

    def chunk_step(self, params: Params, buffers: Buffers, chunk: Task, step: Tensor) -> tuple[Params, Any]:
        """`meta_step` of tasks that are taken at once, with what their objectives return beside the scalar."""
        return chunk_gradient(lambda at, task: self.objective(at, buffers, task, step), params, chunk, self.backend)

    def use(self, backend: Backend, *, compiler: Compiler | None = None) -> None:
        """Maps over tasks in another way from now on, compiled by a backend of `torch.compile` if one is named."""
        self.backend = backend
        norm.fuse(self.net, on=not backend.batched)
        self._of_chunk: ChunkStep = compiled(self.chunk_step, compiler, self.device) if compiler else self.chunk_step

    def training_step(self, tasks: Task, batch_idx: int) -> None:
        """One meta-step: gradient, reduction over processes, finite check, outer update, logging."""
        # Dropout draws from here; with the step in it, a resumed run draws what the uninterrupted one drew.
        reseed(self.step_seed + 1_000_003 * self.global_step + self.global_rank, self.device)
        log_now = (self.global_step + 1) % max(self.trainer.log_every_n_steps, 1) == 0  # type: ignore[attr-defined]  # Lightning's connectors set it
        step = torch.full((), self.global_step, device=self.device)  # filled there: no copy that would be waited for
        buffers = dict(self.named_buffers())
        grads, changed, metrics = self.meta_step(self.learnable(), buffers, tasks, step)
        figures = {f"train/{name}": values.mean() for name, values in metrics.items()}
        before = {}
        if log_now and self.has_inner_loop:
            before = before_adaptation(self._curve_of(), self.figures, tasks, self.backend)
        finite, self.stop_agreed = average_over_ranks(
            [*grads.values(), *filter(torch.is_floating_point, changed.values()), *figures.values()],
            [*before.values()], self.trainer,
            step=self.global_step, check_every=self.check_finite_every, stop=self.stop_requested,
        )  # fmt: skip
        if not finite:
            raise DivergedError(self.global_step + 1, diverged(tasks, metrics, self.trainer), self.check_finite_every)
        for name, value in changed.items():
            buffers[name].copy_(value)
        update(self, grads, self.grad_clip, self.grad_clip_value)
        if log_now:
            self.log("train/loss", figures.pop("train/loss"), prog_bar=True, batch_size=count(tasks))
            self.log_dict(figures | before, batch_size=count(tasks))

    def setup(self, stage: str) -> None:
        """Refuses what meta-gradients can't be made with."""
        check_trainer(self.trainer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The outer optimizer and its schedule, over the parameters that learn."""
        optimizer = self.optimizer([param for param in self.parameters() if param.requires_grad])
        self._outer_settings = dict(optimizer.defaults)
        return ([optimizer], [schedule(self.lr_scheduler, optimizer)]) if self.lr_scheduler else optimizer

    def on_fit_start(self) -> None:
        """Compiles now: the net is on its device, and what checked copies of it is done."""
        if self.compile_in_fit:
            self.use(self.backend, compiler=COMPILER)

    def on_fit_end(self) -> None:
        """Forgets what was compiled: it would go along with a copy, whatever its settings, and can't be pickled."""
        self.use(self.backend)

    def on_train_start(self) -> None:
        """On a resume, the optimizer's settings are this run's and not the checkpoint's."""
        if self.lr_scheduler is None:  # a schedule owns the rate, and goes on from where it stood
            for group in cast(LightningOptimizer, self.optimizers()).param_groups:
                group.update(self._outer_settings)

    def settings(self) -> dict[str, Any]:
        """The plain settings of this algorithm by name: what a checkpoint remembers for comparison."""
        names = {*signature(type(self).__init__).parameters, *signature(MetaModule.__init__).parameters}
        values = {name: getattr(self, name, None) for name in sorted(names)}
        return plain(values | outer_settings(self.optimizer, self.lr_scheduler))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the settings, and what dropout draws from."""
        checkpoint |= {"settings": self.settings(), "step_seed": self.step_seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on drawing from the same seed."""
        self.step_seed = checkpoint.get("step_seed", self.step_seed)

    def evaluate(self, tasks: Task, *, every_step: bool = True) -> Metrics:
        """Adapts to each task and measures it on its queries after 0, 1, ... steps.

        Args:
            tasks: A meta-batch, ``[tasks, ...]``.
            every_step: Measure after every step; else before the first and after the last alone, which is cheaper.

        Returns:
            ``index`` ``[tasks]``; ``loss``, and ``accuracy`` or ``mse``, ``[tasks, steps + 1]``; for classes also
            ``confidence`` and ``correct`` after the last step, ``[tasks, queries]``.
        """
        found = measure(self._curve_of(), self.figures, tasks, self.backend, every_step=every_step)
        return {"index": tasks.index, **found}

    def _curve_of(self) -> CurveOf:
        curve = partial(self.curve, self.learnable(), dict(self.named_buffers()))
        return predictions_of(curve, self.net, self.backend)

    def _measure(self, tasks: Task, stage: str) -> Metrics:
        results = self.evaluate(tasks, every_step=stage == "test")
        figures = averages(results, stage, losses.metric_name(tasks.query.y), before=self.has_inner_loop)
        for name, value in figures.items():
            shown = stage == "val" and not name.endswith("_before")
            self.log(name, value, batch_size=count(tasks), sync_dist=True, on_step=False, on_epoch=True, prog_bar=shown)
        return results

    def validation_step(self, tasks: Task, batch_idx: int) -> None:
        """Logs ``val/...``."""
        self._measure(tasks, "val")

    def test_step(self, tasks: Task, batch_idx: int) -> Metrics:
        """Logs ``test/...``; the callbacks get the results of each task, see `evaluate`."""
        return self._measure(tasks, "test")
