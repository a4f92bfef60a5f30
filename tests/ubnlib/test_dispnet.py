"""DispNet against the table of SfMLearner's network definition, written down here once more."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ubnlib.dispnet import DispNet

# name: (kernel, stride, channels in, channels out)
TABLE = {
    "cnv1": (7, 2, 3, 32), "cnv1b": (7, 1, 32, 32), "cnv2": (5, 2, 32, 64),
    "cnv2b": (5, 1, 64, 64), "cnv3": (3, 2, 64, 128), "cnv3b": (3, 1, 128, 128),
    "cnv4": (3, 2, 128, 256), "cnv4b": (3, 1, 256, 256), "cnv5": (3, 2, 256, 512),
    "cnv5b": (3, 1, 512, 512), "cnv6": (3, 2, 512, 512), "cnv6b": (3, 1, 512, 512),
    "cnv7": (3, 2, 512, 512), "cnv7b": (3, 1, 512, 512), "upcnv7": (3, 2, 512, 512),
    "icnv7": (3, 1, 1024, 512), "upcnv6": (3, 2, 512, 512), "icnv6": (3, 1, 1024, 512),
    "upcnv5": (3, 2, 512, 256), "icnv5": (3, 1, 512, 256), "upcnv4": (3, 2, 256, 128),
    "icnv4": (3, 1, 256, 128), "disp4": (3, 1, 128, 1), "upcnv3": (3, 2, 128, 64),
    "icnv3": (3, 1, 129, 64), "disp3": (3, 1, 64, 1), "upcnv2": (3, 2, 64, 32),
    "icnv2": (3, 1, 65, 32), "disp2": (3, 1, 32, 1), "upcnv1": (3, 2, 32, 16),
    "icnv1": (3, 1, 17, 16), "disp1": (3, 1, 16, 1),
}  # fmt: skip
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def on_meta(**options):
    """The full-size net without memory or arithmetic: shapes only."""
    with torch.device("meta"):
        return DispNet(**options)


def convolutions(net):
    return {
        name.removesuffix(".conv"): module
        for name, module in net.named_modules()
        if isinstance(module, CONVOLUTIONS)
    }


@pytest.mark.parametrize("levels", [4, 5, 6, 7])
def test_layers_are_those_of_the_table(levels):
    """Fewer levels are the finest ones."""

    def level(name):
        return int(name.removesuffix("b")[-1])

    found = convolutions(on_meta(levels=levels))
    assert list(found) == [name for name in TABLE if level(name) <= levels] and len(TABLE) == 32
    for name, module in found.items():
        kernel, stride, inputs, outputs = TABLE[name]
        if name == f"upcnv{levels}":  # takes the last level of the encoder, not a coarser decoder's
            inputs = TABLE[f"cnv{levels}b"][-1]
        shape = (module.kernel_size[0], module.stride[0], module.in_channels, module.out_channels)
        assert shape == (kernel, stride, inputs, outputs), name
        assert isinstance(module, nn.ConvTranspose2d) == name.startswith("upcnv")
        assert (module.bias is not None) == name.startswith("disp")


def test_numbers_of_parameters_and_norms():
    def count(net):
        return sum(parameter.numel() for parameter in net.parameters())

    assert count(on_meta()) == 31_603_972
    assert count(on_meta(norm=None)) == 31_596_900
    norms = [module for module in on_meta().modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 28
    assert not any(isinstance(m, nn.BatchNorm2d) for m in on_meta(norm=None).modules())


@pytest.mark.parametrize("levels", [4, 7])
@pytest.mark.parametrize("size", [(97, 211), (32, 104), (1, 1), (2, 3), (129, 127)])
def test_any_size_works_and_the_finest_output_has_it(size, levels):
    net, coarsest = DispNet(width=0.05, levels=levels).eval(), []
    getattr(net, f"cnv{levels}b").register_forward_hook(lambda *seen: coarsest.append(seen[2]))
    outputs = net(torch.rand(2, 3, *size) - 0.5)
    expected = [tuple(-(-side // 2**level) for side in size) for level in range(4)]
    assert [tuple(output.shape) for output in outputs] == [(2, 1, *side) for side in expected]
    assert coarsest[0].shape[-2:] == tuple(-(-side // 2**levels) for side in size)


@pytest.mark.parametrize("levels", [3, 8])
def test_levels_that_do_not_exist_are_refused(levels):
    with pytest.raises(ValueError, match=f"levels is {levels}: expected 4 to 7, as the 4 finest"):
        DispNet(levels=levels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_depth_is_float32_in_reduced_precision(dtype):
    torch.manual_seed(0)
    net, images, logits = DispNet(width=0.1, levels=4), torch.rand(2, 3, 32, 48) - 0.5, []
    net.disp1.register_forward_hook(lambda *seen: logits.append(seen[2].dtype))
    exact = net(images)
    with torch.autocast("cpu", dtype):
        depth = net(images)
    assert logits == [torch.float32, dtype]
    for output, other in zip(depth, exact, strict=True):
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, other, rtol=0.1, atol=0)
        rounded = output.to(dtype).to(torch.float32)
        assert (rounded != output).float().mean() > 0.9, "finer than it could be in the dtype"
    sum(output.log().mean() for output in depth).backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_depth_spans_the_papers_range():
    net = DispNet(width=0.1).eval()
    for logit, depth in ((-100.0, 80.0), (100.0, 1 / 0.4125), (0.0, 1 / 0.2125)):
        for level in range(1, 5):
            head = getattr(net, f"disp{level}")
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, logit)
        for output in net(torch.rand(1, 3, 16, 16)):
            torch.testing.assert_close(output, torch.full_like(output, depth))
    depth = DispNet(scale=10.0, min_disparity=0.01, width=0.1).eval()(torch.rand(1, 3, 32, 32))[0]
    assert (1 / 10.01 <= depth).all() and (depth <= 100).all()


@pytest.mark.parametrize("size", [(64, 96), (37, 51)])
def test_what_a_decoder_level_joins(size):
    """The encoder's activations of its size, and the coarser level's scaled disparity."""
    net, skips, joined = DispNet(width=0.1).eval(), {}, {}
    for level in range(1, 8):
        getattr(net, f"cnv{level}b").register_forward_hook(
            lambda _, inputs, output, level=level: skips.__setitem__(level, output)
        )
        getattr(net, f"icnv{level}").register_forward_pre_hook(
            lambda _, inputs, level=level: joined.__setitem__(level, inputs[0])
        )
    outputs = net(torch.rand(2, 3, *size) - 0.5)
    for level in range(1, 7):
        start = getattr(net, f"upcnv{level + 1}").conv.out_channels
        skip = skips[level]
        assert torch.equal(joined[level + 1][:, start : start + skip.shape[1]], skip)
    for level, coarser in zip((1, 2, 3), outputs[1:], strict=True):
        upsampled = F.interpolate(
            1 / coarser, joined[level].shape[-2:], mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(joined[level][:, -1:], upsampled)


def test_gradient_reaches_every_parameter():
    for norm in (nn.BatchNorm2d, None):
        net = DispNet(width=0.25, norm=norm)
        sum(output.log().mean() for output in net(torch.rand(3, 3, 37, 70) - 0.5)).backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_norm_is_any_callable_of_channels():
    net = DispNet(width=0.25, norm=lambda channels: nn.GroupNorm(2, channels))
    groups = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    assert len(groups) == 28
    assert {module.num_channels for module in groups} == {4, 8, 16, 32, 64, 128}
