"""Augmentations on the device that keep sparse depth right: mirroring, and changes of light.

The paper names none, so the experiments use none by default.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ubnlib.kitti.packed.codes import flip_codes
from ubnlib.kitti.packed.dataset import PackedBatch


@dataclass(frozen=True)
class Augmentation:
    """What to draw for each frame; the ranges of light are those of C. Godard et al. (2017)."""

    flip: float = 0.5
    """Probability to mirror a frame left to right."""
    light: float = 0.5
    """Probability to change a frame's light."""
    gamma: tuple[float, float] = (0.8, 1.2)
    brightness: tuple[float, float] = (0.5, 2.0)
    color: tuple[float, float] = (0.8, 1.2)
    """Factor of each color channel."""

    def flipped(self, batch: PackedBatch, generator: torch.Generator) -> PackedBatch:
        """Mirror some frames, chosen at random, with their depth."""
        chosen = torch.rand(len(batch.images), generator=generator) < self.flip
        return flip(batch, chosen)

    def relit(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change the light of some images, chosen at random.

        Args:
            images: [n, 3, H, W] float in [0, 1].
            generator: On the CPU, so that a seed means the same on every device.

        Returns:
            Images of the same shape in [0, 1]; those not chosen are unchanged.
        """
        n = len(images)
        chosen = torch.rand(n, 1, 1, 1, generator=generator) < self.light
        gamma, brightness, color = (
            low + (high - low) * torch.rand(n, channels, 1, 1, generator=generator)
            for (low, high), channels in ((self.gamma, 1), (self.brightness, 1), (self.color, 3))
        )
        gamma, scale = gamma.to(images.device), (brightness * color).to(images.device)
        return torch.where(chosen.to(images.device), (images**gamma * scale).clamp(0, 1), images)


def flip(batch: PackedBatch, chosen: Tensor) -> PackedBatch:
    """Mirror chosen frames left to right; their points move, and none is interpolated.

    Args:
        batch: Frames, with or without depth codes.
        chosen: [n] bool.
    """
    chosen = chosen.to(batch.images.device)
    images = torch.where(chosen[:, None, None, None], batch.images.flip(-1), batch.images)
    codes = flip_codes(batch.codes, batch.counts, chosen, batch.images.shape[-1])
    return PackedBatch(images, codes, batch.counts)
