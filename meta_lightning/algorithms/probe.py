"""One task through a module before anything is trained or written: does the net fit the data?"""

import torch

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.errors import ConfigError
from meta_lightning.functional import losses
from meta_lightning.types import Task


def probe(module: MetaModule, tasks: Task) -> str:
    """Evaluates one task and checks the shapes of what comes out.

    Args:
        module: The algorithm with its net.
        tasks: A meta-batch of one task, preprocessed, on the module's device.

    Returns:
        The name of the metric, ``accuracy`` or ``mse``.

    Raises:
        ConfigError: If nothing learns, the net does not take the inputs, its outputs do not fit the targets, or the
            loss is not one number.
    """
    params = module.learnable()
    if not params:
        raise ConfigError("model.net has no parameter that learns; expected a net with parameters that require grad")
    query = tasks.query._replace(x=tasks.query.x[0], y=tasks.query.y[0])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            output = module.net(query.x)
        except RuntimeError as error:
            shape = list(query.x.shape)
            raise ConfigError(
                f"model.net takes no inputs of shape {shape}: {str(error).partition(chr(10))[0]}"
            ) from error
        _check_output(output, query.y)
        _check_loss(module, output, query.y)
    return losses.metric_name(query.y)


def _check_output(output: object, targets: torch.Tensor) -> None:
    expected = f"[{len(targets)}, classes]" if losses.is_classification(targets) else str(list(targets.shape))
    if not isinstance(output, torch.Tensor):
        raise ConfigError(f"model.net returns a {type(output).__name__}; expected a tensor of shape {expected}")
    fits = output.shape == targets.shape
    if losses.is_classification(targets):
        fits = output.ndim == 2 and len(output) == len(targets) and output.shape[1] > int(targets.max())
    if not fits or not output.is_floating_point():
        raise ConfigError(
            f"model.net gives {str(output.dtype).removeprefix('torch.')} {list(output.shape)} for targets "
            f"{list(targets.shape)} up to {targets.max().item():.3g}; expected floats {expected}: check its width"
        )


def _check_loss(module: MetaModule, output: torch.Tensor, targets: torch.Tensor) -> None:
    if module.loss == "mse" and losses.is_classification(targets):
        raise ConfigError("model.loss is mse, but the targets are class labels; expected cross_entropy or auto")
    if module.loss == "cross_entropy" and not losses.is_classification(targets):
        raise ConfigError("model.loss is cross_entropy, but the targets are values; expected mse or auto")
    if (loss := module.loss_of(output, targets)).ndim:
        raise ConfigError(f"model.loss gives {list(loss.shape)} numbers; expected the mean over examples, one number")
