"""Prototypes and distances against loops over classes and torch's own."""

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from meta_lightning.functional.prototypes import nearness, prototypes

DISTANCES = ["euclidean", "cosine"]
UNSORTED = [2, 0, 2, 4, 2, 0, 4, 2]
"""Four, two and two examples of classes 2, 0 and 4; none of 1 and 3."""


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_prototypes_are_the_means_class_by_class():
    features, labels = torch.randn(8, 3, dtype=torch.float64), torch.tensor(UNSORTED)
    points, counts = prototypes(features, labels, 6)
    assert counts.tolist() == [2, 0, 4, 0, 2, 0]
    for label in (0, 2, 4):
        torch.testing.assert_close(points[label], features[labels == label].mean(0))
    assert not points[[1, 3, 5]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prototypes_and_counts_are_of_the_features_type(dtype):
    points, counts = prototypes(torch.randn(8, 3, dtype=dtype), torch.tensor(UNSORTED), 5)
    assert (points.dtype, points.shape) == (dtype, (5, 3))
    assert (counts.dtype, counts.shape) == (dtype, (5,))


def test_an_example_pulls_its_own_prototype_by_its_share():
    labels = torch.tensor(UNSORTED)
    slopes = torch.func.jacrev(lambda features: prototypes(features, labels, 5)[0])(torch.randn(8, 1))
    shares = F.one_hot(labels, 5).T / torch.tensor([2.0, 1, 4, 1, 2])[:, None]
    torch.testing.assert_close(slopes[:, 0, :, 0], shares)


def test_euclidean_nearness_is_minus_the_square_of_the_distance():
    queries, points = torch.randn(7, 4, dtype=torch.float64), 3 + torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(nearness(queries, points, "euclidean"), -torch.cdist(queries, points).square())


def test_cosine_nearness_is_the_cosine_less_one():
    queries, points = 10 * torch.randn(7, 4, dtype=torch.float64), 3 + torch.randn(5, 4, dtype=torch.float64)
    expected = F.cosine_similarity(queries[:, None], points, dim=2) - 1
    torch.testing.assert_close(nearness(queries, points, "cosine"), expected)


@pytest.mark.parametrize(("distance", "scale"), [("euclidean", 9.0), ("cosine", 1.0)])
def test_only_the_cosine_is_blind_to_length(distance, scale):
    queries, points = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    scaled = nearness(3 * queries, 3 * points, distance)
    torch.testing.assert_close(scaled, scale * nearness(queries, points, distance))


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_point_is_nearest_to_itself(distance):
    points = torch.randn(6, 4, dtype=torch.float64)
    near = nearness(points, points, distance)
    assert near.argmax(1).tolist() == [*range(6)]
    torch.testing.assert_close(near.diag(), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_finite_at_identical_points_and_at_zero(distance):
    # The root of a distance has no slope at 0, nor has the length of a vector: a class without examples lies there.
    queries = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    slopes = grad(lambda *of: nearness(*of, distance).square().sum(), argnums=(0, 1))(queries, queries.clone())
    assert all(slope.isfinite().all() for slope in slopes)
    assert all(slope.any() for slope in slopes)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_agree_with_finite_differences(distance):
    labels = torch.tensor(UNSORTED)

    def near(queries, features):
        return nearness(queries, prototypes(features, labels, 5)[0][[0, 2, 4]], distance)

    inputs = [torch.randn(rows, 3, dtype=torch.float64, requires_grad=True) for rows in (2, 8)]
    assert torch.autograd.gradcheck(near, inputs)
    assert torch.autograd.gradgradcheck(near, inputs)


@pytest.mark.parametrize("distance", DISTANCES)
def test_tasks_side_by_side_give_what_they_give_one_by_one(distance):
    features, queries = torch.randn(3, 8, 4, dtype=torch.float64), torch.randn(3, 6, 4, dtype=torch.float64)
    labels = torch.stack([torch.tensor(UNSORTED)[torch.randperm(8)], torch.zeros(8).long(), torch.arange(8) % 5])

    def scores(features, labels, queries):
        points, counts = prototypes(features, labels, 5)
        return nearness(queries, points, distance), counts

    found = vmap(scores)(features, labels, queries)
    one_by_one = [scores(*task) for task in zip(features, labels, queries, strict=True)]
    torch.testing.assert_close(found, tuple(torch.stack(part) for part in zip(*one_by_one, strict=True)))
    assert found[1].tolist() == [[2, 0, 4, 0, 2], [8, 0, 0, 0, 0], [2, 2, 2, 1, 1]]


def test_features_far_from_zero_keep_their_distances() -> None:
    """Products of such features cancel in float32; labels without examples must not hide where the features lie."""
    generator = torch.Generator().manual_seed(0)
    support = 300 + torch.randn(25, 64, generator=generator)
    queries = 300 + torch.randn(10, 64, generator=generator)
    points, _ = prototypes(support, torch.arange(5).repeat(5), 25)
    exact = -torch.cdist(queries.double(), points[:5].double()).square()
    torch.testing.assert_close(nearness(queries, points, "euclidean")[:, :5].double(), exact, rtol=1e-4, atol=1e-3)
