"""Counter-based random numbers: a draw is a function of its key, never of what was drawn before.

A key is an int64 tensor of any shape; one key stands for one stream. Keys are made from integers with `key` and
narrowed with `fold`. Since all are plain torch operations, a stream is the same under vmap, in a loop, on any number
of ranks and after a resume. The generator is SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) with its 64-bit words held in int64, whose products and sums wrap.
"""

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    return word - (1 << 64) if word >= 1 << 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))
# Separates the keys that `fold` makes from the words that `bits` draws from the same key.
_FOLD = _signed(0xD1342543DE82EF95)


def _shift_right(word: Tensor, by: int) -> Tensor:
    # `>>` copies the sign bit into an int64; the mask makes it the logical shift that the generator asks for.
    return (word >> by) & ((1 << (64 - by)) - 1)


def _mix(word: Tensor) -> Tensor:
    word = (word ^ _shift_right(word, 30)) * _MIX[0]
    word = (word ^ _shift_right(word, 27)) * _MIX[1]
    return word ^ _shift_right(word, 31)


def fold(key: Tensor, data: int | Tensor) -> Tensor:
    """A new key for each integer in ``data``.

    Args:
        key: Keys, int64, any shape.
        data: An integer or an int64 tensor that broadcasts against ``key``.

    Returns:
        Keys in the broadcast shape.
    """
    if not isinstance(data, Tensor):
        # A product of Python integers would not wrap; and a tensor that is filled on its device copies nothing there.
        data = torch.full((), data, dtype=torch.int64, device=key.device)
    counter = data.to(key.device) + 1
    return _mix((key ^ _FOLD) + counter * _GAMMA)


def key(*parts: int | Tensor) -> Tensor:
    """The key that a sequence of integers stands for, for example ``key(seed, split, index)``.

    Args:
        *parts: Integers below 2**63 in size, or int64 tensors that broadcast against each other.

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
    """``count`` random 64-bit words per key, as int64 ``[*key.shape, count]``."""
    counter = torch.arange(1, count + 1, device=key.device)
    return _mix(key[..., None] + counter * _GAMMA)


def uniform(key: Tensor, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``count`` floats in ``[low, high)`` per key, float64 ``[*key.shape, count]``."""
    return low + (high - low) * (_shift_right(bits(key, count), 11).double() * 2.0**-53)


def integers(key: Tensor, count: int, bound: int) -> Tensor:
    """``count`` integers in ``[0, bound)`` per key, int64 ``[*key.shape, count]``; bias below ``bound / 2**32``."""
    return _shift_right(_shift_right(bits(key, count), 32) * bound, 32)


def choose(key: Tensor, bound: int, count: int) -> Tensor:
    """``count`` different integers from ``[0, bound)`` per key, in random order.

    Args:
        key: Keys, int64, any shape.
        bound: How many there are to choose from.
        count: How many to choose, at most ``bound``; equal to it for a permutation.

    Returns:
        int64 ``[*key.shape, count]``.
    """
    return bits(key, bound).topk(count, dim=-1).indices
