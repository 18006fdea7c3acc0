"""Counter-based random numbers: a draw depends on its key alone and not on earlier draws.

A key is an int64 tensor of any shape, and each of its entries stands for one stream. `key` makes keys from integers,
and `fold` derives further keys from a key. All functions are plain torch operations, so a stream is the same under
vmap, in a loop, on any number of ranks and after a resume. The generator is SplitMix64 (Steele, Lea & Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014). Its 64-bit words are held in int64, whose sums and products
wrap.
"""

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    return word - (1 << 64) if word >= 1 << 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
# The inverse of _GAMMA modulo 2**64.
_INVERSE = _signed(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MIX = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))
# Keeps the keys that `fold` derives apart from the words that `bits` draws from the same key.
_FOLD = _signed(0xD1342543DE82EF95)


def _shift_right(word: Tensor, by: int) -> Tensor:
    # `>>` of an int64 copies the sign bit. The generator needs a logical shift, so the mask clears the copies.
    return (word >> by) & ((1 << (64 - by)) - 1)


def _mix(word: Tensor) -> Tensor:
    word = (word ^ _shift_right(word, 30)) * _MIX[0]
    word = (word ^ _shift_right(word, 27)) * _MIX[1]
    return word ^ _shift_right(word, 31)


def _advance(key: Tensor, counter: Tensor) -> Tensor:
    """The words ``key + counter * _GAMMA``.

    torch.compile would write the product of an `arange` and a large constant into the index arithmetic of a C++ loop.
    Its overflow is undefined there, and the loop then writes beyond the end of its output. The counter is therefore
    added to a word of the key before the product is formed.
    """
    return (key * _INVERSE + counter) * _GAMMA


def fold(key: Tensor, data: int | Tensor) -> Tensor:
    """Derives a new key for each integer in ``data``.

    Args:
        key: Keys, int64, any shape.
        data: An integer or an int64 tensor that broadcasts against ``key``.

    Returns:
        Keys in the broadcast shape.
    """
    if not isinstance(data, Tensor):
        # A product of Python integers would not wrap. `full` fills the tensor on its device, without a copy.
        data = torch.full((), data, dtype=torch.int64, device=key.device)
    counter = data.to(key.device) + 1
    return _mix(_advance(key ^ _FOLD, counter))


def key(*parts: int | Tensor) -> Tensor:
    """Makes a key from a sequence of integers, for example ``key(seed, split, index)``.

    Args:
        *parts: Integers of magnitude below 2**63, or int64 tensors that broadcast against each other.

    Returns:
        Keys, int64, in the broadcast shape of the parts.
    """
    result = torch.zeros((), dtype=torch.int64)
    for part in parts:
        if isinstance(part, Tensor):
            result = result.to(part.device)
        result = fold(result, part)
    return result


def bits(key: Tensor, count: int) -> Tensor:
    """Draws ``count`` random 64-bit words per key, int64 ``[*key.shape, count]``."""
    counter = torch.arange(1, count + 1, device=key.device)
    return _mix(_advance(key[..., None], counter))


def uniform(key: Tensor, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draws ``count`` floats in ``[low, high)`` per key, float64 ``[*key.shape, count]``."""
    return low + (high - low) * (_shift_right(bits(key, count), 11).double() * 2.0**-53)


def integers(key: Tensor, count: int, bound: int) -> Tensor:
    """Draws ``count`` integers in ``[0, bound)`` per key, int64 ``[*key.shape, count]``.

    The bias of an integer's probability is below ``bound / 2**32``.
    """
    return _shift_right(_shift_right(bits(key, count), 32) * bound, 32)


def choose(key: Tensor, bound: int | Tensor, count: int) -> Tensor:
    """Draws ``count`` distinct integers from ``[0, bound)`` per key, in random order.

    Args:
        key: Keys, int64, any shape.
        bound: The number of integers to choose from: one number for all keys, or a tensor with one for each key.
        count: The number of integers to choose, at most ``bound``. If it equals ``bound``, the result is a permutation.

    Returns:
        int64 ``[*key.shape, count]``.
    """
    if not isinstance(bound, Tensor):
        return bits(key, bound).topk(count, dim=-1).indices
    largest = int(bound.max())
    words = bits(key, largest).masked_fill(torch.arange(largest) >= bound[..., None], torch.iinfo(torch.int64).min)
    return words.topk(count, dim=-1).indices
