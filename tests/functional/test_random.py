"""SplitMix64 and what is drawn from it, against published words, pure Python and closed forms."""

import itertools

import pytest
import torch

from meta_lightning.functional import random

# The first five words of the reference implementation (Vigna's splitmix64.c) from state 1234567.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def splitmix64(state, count):
    """The generator in Python integers, written after its description and with a state that moves."""
    words = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        words.append(word ^ (word >> 31))
    return words


def unsigned(words):
    return [word % 2**64 for word in words.tolist()]


def chi_square(counts):
    """Pearson's statistic of counts that should be equal."""
    expected = counts.double().mean()
    return ((counts - expected) ** 2 / expected).sum().item()


def test_bits_are_the_published_words():
    assert splitmix64(1234567, 5) == PUBLISHED
    assert unsigned(random.bits(torch.tensor(1234567), 5)) == PUBLISHED


@pytest.mark.parametrize("state", [0, 1, 42, 2**62, 2**63 - 1, -1, -(2**63)])
def test_bits_agree_with_pure_python(state):
    assert unsigned(random.bits(torch.tensor(state), 100)) == splitmix64(state % 2**64, 100)


def test_uniform_is_the_top_53_bits():
    drawn = random.uniform(torch.tensor(1234567), 5)
    assert drawn.dtype == torch.float64
    assert drawn.tolist() == [(word >> 11) / 2**53 for word in PUBLISHED]


@pytest.mark.parametrize("bound", [1, 2, 7, 1623, 2**31 - 1, 2**32])
def test_integers_scale_the_top_32_bits(bound):
    drawn = random.integers(torch.tensor(1234567), 5, bound)
    assert drawn.tolist() == [(word >> 32) * bound >> 32 for word in PUBLISHED]


@pytest.mark.parametrize(
    "draw",
    [
        lambda key: random.bits(key, 6),
        lambda key: random.uniform(key, 6, -5.0, 5.0),
        lambda key: random.integers(key, 6, 11),
        lambda key: random.choose(key, 11, 6),
        lambda key: random.fold(key, 3),
        lambda key: random.key(0, key),
    ],
    ids=["bits", "uniform", "integers", "choose", "fold", "key"],
)
def test_vmap_batch_and_loop_draw_alike(draw):
    keys = random.fold(random.key(0), torch.arange(8))
    one_by_one = torch.stack([draw(key) for key in keys])
    assert torch.equal(torch.func.vmap(draw)(keys), one_by_one)
    assert torch.equal(draw(keys), one_by_one)


# Changing the scheme changes every episode, and so every published figure: these words never change.
@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ((0, 0, 0), -5305563211666201573),
        ((1, 2, 3), 7140208770952241122),
        ((7, 1), -2044898482498224602),
        ((-1,), -5957183380564808212),
        ((2**62,), -4834129395944527384),
    ],
)
def test_keys_are_fixed_for_ever(parts, word):
    assert random.key(*parts).item() == word


def test_key_takes_tensors_for_integers():
    table = random.key(5, torch.arange(3)[:, None], torch.arange(4))
    assert table.shape == (3, 4)
    assert table.tolist() == [[random.key(5, row, column).item() for column in range(4)] for row in range(3)]


def test_key_depends_on_the_order_and_number_of_its_parts():
    made = [random.key(*parts).item() for parts in [(), (0,), (0, 0), (0, 1), (1, 0), (1,)]]
    assert len(set(made)) == len(made)


def test_no_two_neighbours_share_a_key():
    seeds, splits, indices = torch.arange(20)[:, None, None], torch.arange(3)[:, None], torch.arange(1000)
    assert random.key(seeds, splits, indices).unique().numel() == 20 * 3 * 1000


def test_neighbours_differ_in_half_of_their_bits():
    keys = random.fold(random.key(0), torch.arange(1000)).tolist()
    flipped = [((one ^ other) % 2**64).bit_count() for one, other in itertools.pairwise(keys)]
    assert 31 < sum(flipped) / len(flipped) < 33


def test_folded_keys_are_not_words_of_the_same_stream():
    key = random.key(0)
    words = set(random.bits(key, 2000).tolist())
    assert words.isdisjoint(random.fold(key, torch.arange(-1000, 1000)).tolist())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 5.0), (-5.0, 5.0)])
def test_uniform_has_the_mean_and_variance_of_its_range(low, high):
    drawn = random.uniform(random.key(0), 100_000, low, high)
    assert low <= drawn.min()
    assert drawn.max() < high
    width = high - low
    # Five standard errors of the mean, and as much of the variance.
    assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=5 * width / (12 * 100_000) ** 0.5)
    assert drawn.var().item() == pytest.approx(width**2 / 12, rel=0.015)


def test_uniform_is_even_over_neighbouring_keys():
    first = random.uniform(random.fold(random.key(0), torch.arange(20_000)), 1)
    assert chi_square((first * 20).long().flatten().bincount(minlength=20)) < 53  # 19 degrees, 1 in 20,000


@pytest.mark.parametrize("bound", [2, 7, 20])
def test_integers_are_even(bound):
    counts = random.integers(random.key(0), 1000 * bound, bound).bincount()
    assert len(counts) == bound
    assert chi_square(counts) < {2: 17, 7: 30, 20: 53}[bound]  # 1, 6 and 19 degrees: 1 in 20,000 at most


def test_chosen_are_different_and_in_range():
    chosen = random.choose(random.fold(random.key(0), torch.arange(500)), 9, 4)
    assert chosen.shape == (500, 4)
    assert {len(set(row)) for row in chosen.tolist()} == {4}
    assert set(chosen.flatten().tolist()) == set(range(9))


def test_choosing_all_is_a_permutation():
    order = random.choose(random.fold(random.key(0), torch.arange(50)), 13, 13)
    assert torch.equal(order.sort().values, torch.arange(13).expand(50, 13))


def test_a_smaller_choice_begins_a_larger_one():
    key = random.key(0)
    assert torch.equal(random.choose(key, 20, 5), random.choose(key, 20, 20)[:5])


def test_every_element_is_chosen_equally_often_in_every_place():
    chosen = random.choose(random.fold(random.key(0), torch.arange(20_000)), 10, 3)
    for place in chosen.T:
        assert chi_square(place.bincount(minlength=10)) < 36  # 9 degrees: 1 in 20,000


def test_every_order_comes_equally_often():
    orders = random.choose(random.fold(random.key(0), torch.arange(12_000)), 3, 3)
    counts = (orders * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 6
    assert chi_square(counts) < 28  # 5 degrees: 1 in 20,000
