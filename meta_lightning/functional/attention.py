"""The kernels of attention that meta-gradients can be made with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.backends import cuda, mha

_FUSED: tuple[Callable[[], bool], ...] = (
    cuda.flash_sdp_enabled,
    cuda.mem_efficient_sdp_enabled,
    cuda.cudnn_sdp_enabled,
)


@contextmanager
def differentiable_attention(*, twice: bool) -> Iterator[None]:
    """Makes torch's attention use kernels that can be differentiated while the context lasts.

    The fast path of `nn.MultiheadAttention` and `nn.TransformerEncoder` has no derivative, and under `torch.func` torch
    takes it in eval mode even where one is needed. The fused kernels of `scaled_dot_product_attention` have a first
    derivative only. The mathematical kernel has all derivatives, at more memory.

    Args:
        twice: Whether second derivatives are needed.
    """
    fast_path = mha.get_fastpath_enabled()
    fused = [enabled() for enabled in _FUSED]
    # Not `sdpa_kernel`, which takes ten times as long: a compiled meta-step can be as short as 0.2 ms.
    mha.set_fastpath_enabled(False)
    if twice:
        _enable_fused(False, False, False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(fast_path)
        _enable_fused(*fused)


def _enable_fused(flash: bool, memory_efficient: bool, cudnn: bool) -> None:
    cuda.enable_flash_sdp(flash)
    cuda.enable_mem_efficient_sdp(memory_efficient)
    cuda.enable_cudnn_sdp(cudnn)
