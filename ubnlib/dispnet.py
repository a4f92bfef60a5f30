"""DispNet, the depth network of the paper's section 4.

Provenance: kernel sizes, widths, skips and multi-resolution predictions are those of SfMLearner's
modified DispNet (T. Zhou et al., CVPR 2017), carried over as facts from its network definition,
names included; normalization and depth's range are the paper's.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

# Level l works at 1 / 2^l of the input's size: (level, kernel of cnv<l> and cnv<l>b, channels).
ENCODER = ((1, 7, 32), (2, 5, 64), (3, 3, 128), (4, 3, 256), (5, 3, 512), (6, 3, 512), (7, 3, 512))
# (level, channels of upcnv<l> and icnv<l>): from level l up to level l - 1.
DECODER = ((7, 512), (6, 512), (5, 256), (4, 128), (3, 64), (2, 32), (1, 16))
PREDICTING = 4  # levels up to this one predict disparity

Norm = Callable[[int], nn.Module]


class DispNet(nn.Module):
    """Encoder-decoder with skips that predicts depth at four resolutions.

    Depth = 1 / (scale * sigmoid(X) + min_disparity); with the paper's numbers it lies between 2.42
    and 80 m. Each convolution is followed by a normalization and a ReLU, the four predicting ones
    by neither. The scaled disparity is what the next finer level sees, upsampled.

    Args:
        scale: The paper's s, in 1/m.
        min_disparity: The paper's m, in 1/m: the inverse of the largest depth.
        width: Multiplier of the hidden channels, at least one channel each; 1 is the paper's net.
        norm: Makes a normalization from a number of channels; the convolution before it has no
            bias. None for no normalization, and biases.
        levels: How often the encoder halves the image, 4 to 7; a ValueError says which are not.

    Shape:
        - Input: [N, 3, H, W] of any H, W >= 1, images of roughly zero mean and unit range.
        - Output: four depth maps in meters: [N, 1, H, W], then 1/2, 1/4, 1/8 of it, rounded up.
    """

    def __init__(
        self,
        scale: float = 0.4,
        min_disparity: float = 0.0125,
        width: float = 1.0,
        norm: Norm | None = nn.BatchNorm2d,
        levels: int = 7,
    ):
        super().__init__()
        if not PREDICTING <= levels <= len(ENCODER):
            expected = f"{PREDICTING} to {len(ENCODER)}, as the {PREDICTING} finest ones predict"
            raise ValueError(f"levels is {levels}: expected {expected}.")
        self.scale, self.min_disparity, self.levels = scale, min_disparity, levels

        def add(name: str, convolution: type[nn.Module], *shape: int, **options: int) -> None:
            layers = OrderedDict(conv=convolution(*shape, bias=norm is None, **options))
            if norm is not None:
                layers["norm"] = norm(shape[-1])
            self.add_module(name, nn.Sequential(layers | {"relu": nn.ReLU()}))

        channels, skips = 3, [0]  # the image itself is no skip
        for level, kernel, wanted in ENCODER[:levels]:
            hidden = max(1, round(width * wanted))
            same = dict(kernel_size=kernel, padding=kernel // 2)
            add(f"cnv{level}", nn.Conv2d, channels, hidden, stride=2, **same)
            add(f"cnv{level}b", nn.Conv2d, hidden, hidden, **same)
            channels = hidden
            skips.append(hidden)
        same = dict(kernel_size=3, padding=1)
        for level, wanted in DECODER[-levels:]:
            hidden = max(1, round(width * wanted))
            joined = hidden + skips[level - 1] + (level < PREDICTING)  # the last: coarser disparity
            double = dict(stride=2, output_padding=1, **same)
            add(f"upcnv{level}", nn.ConvTranspose2d, channels, hidden, **double)
            add(f"icnv{level}", nn.Conv2d, joined, hidden, **same)
            if level <= PREDICTING:
                self.add_module(f"disp{level}", nn.Conv2d(hidden, 1, **same))
            channels = hidden
        for module in self.modules():  # as SfMLearner does
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Predict depth maps in meters, finest first, from images [N, 3, H, W]."""
        features, skips = images, [images]
        for level, _, _ in ENCODER[: self.levels]:
            features = getattr(self, f"cnv{level}b")(getattr(self, f"cnv{level}")(features))
            skips.append(features)
        disparities: list[torch.Tensor] = []
        for level, _ in DECODER[-self.levels :]:
            size = skips[level - 1].shape[-2:]
            features = getattr(self, f"upcnv{level}")(features)
            joined = [features[..., : size[0], : size[1]]]  # a doubled odd size is one too large
            if level > 1:
                joined.append(skips[level - 1])
            if disparities:
                coarser = F.interpolate(disparities[-1], size, mode="bilinear")
                joined.append(coarser.to(features.dtype))
            features = getattr(self, f"icnv{level}")(torch.cat(joined, dim=1))
            if level <= PREDICTING:
                logits = getattr(self, f"disp{level}")(features)
                # Depth in bfloat16 would be 0.4 % off before it is compared with anything.
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                disparities.append(self.scale * torch.sigmoid(logits) + self.min_disparity)
        return tuple(1.0 / disparity for disparity in reversed(disparities))

    def extra_repr(self) -> str:
        """Show how logits become depth."""
        return f"scale={self.scale}, min_disparity={self.min_disparity}"
