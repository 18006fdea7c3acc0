"""Conv4: shapes, and parameter counts worked out by hand."""

import pytest
import torch
from torch import nn

from meta_lightning.nets import Conv4


def size(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("downsample", ["stride", "max_pool"])
@pytest.mark.parametrize("image_size", [28, 84])
@pytest.mark.parametrize(("channels", "ways"), [(1, 5), (3, 20)])
def test_pictures_become_one_row_each(downsample, image_size, channels, ways):
    net = Conv4(ways, in_channels=channels, width=8, downsample=downsample, image_size=image_size)
    assert net(torch.randn(2, channels, image_size, image_size)).shape == (2, ways)


@pytest.mark.parametrize(
    ("downsample", "image_size", "width", "features"),
    [("stride", 28, 64, 64), ("stride", 84, 32, 32), ("max_pool", 28, 64, 64), ("max_pool", 84, 32, 800)],
)
def test_without_a_head_come_the_features(downsample, image_size, width, features):
    net = Conv4(None, width=width, downsample=downsample, image_size=image_size)
    assert net(torch.randn(2, 1, image_size, image_size)).shape == (2, features)


@pytest.mark.parametrize(
    ("downsample", "image_size", "features", "wide"),
    [("stride", 28, "flatten", 4 * 64), ("stride", 84, "flatten", 36 * 64), ("max_pool", 84, "mean", 64)],
)
def test_features_are_flattened_or_averaged_as_asked(downsample, image_size, features, wide):
    net = Conv4(5, downsample=downsample, image_size=image_size, features=features)
    assert net.head.in_features == wide
    assert net(torch.randn(2, 1, image_size, image_size)).shape == (2, 5)


def test_omniglot_net_of_the_maml_paper_has_its_parameters():
    convolutions = (1 * 9 + 1) * 64 + 3 * (64 * 9 + 1) * 64
    norms, head = 4 * 2 * 64, (64 + 1) * 5
    assert size(Conv4(5)) == convolutions + norms + head == 112_261


def test_mini_imagenet_net_of_the_maml_paper_has_its_parameters():
    convolutions = (3 * 9 + 1) * 32 + 3 * (32 * 9 + 1) * 32
    norms, head = 4 * 2 * 32, (32 * 5 * 5 + 1) * 5
    net = Conv4(5, in_channels=3, width=32, downsample="max_pool", image_size=84)
    assert size(net) == convolutions + norms + head == 32_901


def test_stride_takes_the_mean_over_space():
    net = Conv4(None, width=4)
    x = torch.randn(3, 1, 28, 28)
    assert net.blocks(x).shape == (3, 4, 2, 2)  # 28, 14, 7, 4, 2
    torch.testing.assert_close(net(x), sum(net.blocks(x)[:, :, row, column] for row in (0, 1) for column in (0, 1)) / 4)


def test_max_pool_keeps_space_apart():
    net = Conv4(None, width=4, downsample="max_pool", image_size=84)
    x = torch.randn(2, 1, 84, 84)
    assert net.blocks(x).shape == (2, 4, 5, 5)  # 84, 42, 21, 10, 5
    assert torch.equal(net(x), net.blocks(x).reshape(2, 100))


@pytest.mark.parametrize(("downsample", "stride", "pools"), [("stride", 2, 0), ("max_pool", 1, 4)])
def test_each_block_halves_the_picture_once(downsample, stride, pools):
    modules = [*Conv4(5, downsample=downsample).modules()]
    assert [module.stride for module in modules if isinstance(module, nn.Conv2d)] == [(stride, stride)] * 4
    assert sum(isinstance(module, nn.MaxPool2d) for module in modules) == pools


def test_no_state_is_carried_between_tasks():
    net = Conv4(5)
    assert not dict(net.named_buffers())
    x = torch.randn(4, 1, 28, 28)
    before = net(x)
    net(10 * x + 3)
    assert torch.equal(net(x), before)
    assert torch.equal(net.eval()(x), before)
