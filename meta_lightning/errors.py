"""The exceptions whose messages are written for users."""

# A message names at most this many tasks.
_MAX_TASKS = 10


class ConfigError(ValueError):
    """Invalid input: the text says what was found, what was expected and which key to change.

    The command line prints only the text, without a traceback, and exits with code 2. Raise it only if the text lets a
    user fix the input without opening the source. Any other exception is a defect and keeps its traceback.
    """


class NotFiniteError(FloatingPointError):
    """The results of an evaluation are not finite.

    Args:
        stage: ``val`` or ``test``.
        tasks: The numbers of the tasks with such results.
    """

    def __init__(self, stage: str, tasks: list[int]) -> None:
        super().__init__(
            f"{stage}/loss or its metric is not finite for {name_tasks(tasks)}: adaptation diverged, or the weights "
            "are spoilt. There is no report; lower model.inner_lr or model.eval_inner_steps, or use another checkpoint"
        )


def name_tasks(tasks: list[int]) -> str:
    """Names the first tasks of a list for a message.

    Example:
        >>> name_tasks([3, 5])
        'tasks [3, 5]'
    """
    more = f" and {len(tasks) - _MAX_TASKS} more" if len(tasks) > _MAX_TASKS else ""
    return f"tasks {tasks[:_MAX_TASKS]}{more}"


class DivergedError(FloatingPointError):
    """The loss or the meta-gradient is not finite.

    Args:
        step: The meta-step at which the non-finite value was detected.
        tasks: The numbers of the tasks that caused it.
        every: The number of meta-steps from one check to the next. With 1, the error is raised before the weights
            change.
    """

    def __init__(self, step: int, tasks: list[int], every: int = 1) -> None:
        weights = (
            "the weights are unchanged"
            if every == 1
            else f"model.check_finite_every is {every}, so the weights and later checkpoints may be spoilt"
        )
        super().__init__(
            f"meta-step {step}: the loss or the meta-gradient is not finite (tasks {tasks}); {weights}. "
            "Lower model.inner_lr or the optimizer's lr, or set model.grad_clip"
        )
