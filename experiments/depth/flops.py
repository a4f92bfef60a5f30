"""The operations of a depth run's step, and the time they would take on a card that is not here."""

import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.depth.config import DepthConfig
from ubnlib.dispnet import DispNet

# Peaks of dense bf16 matrix products, in TFLOP/s, by torch's name of the card. From NVIDIA's data
# sheets of the H100 (SXM: 1,979 with sparsity, which doubles it), the H200 (SXM, the same) and the
# A100 (312 in all forms). PCIe and NVL forms of the former are slower, and not listed.
PEAKS = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    **dict.fromkeys(
        (
            "NVIDIA A100-SXM4-40GB",
            "NVIDIA A100-SXM4-80GB",
            "NVIDIA A100-PCIE-40GB",
            "NVIDIA A100 80GB PCIe",
        ),
        312.0,
    ),
}
# Not measured. DispNet's finest levels have few channels and many pixels, so that a step waits for
# the memory's bandwidth rather than for the matrix units.
ASSUMED_SHARE = 0.1
IMAGES = 2  # on which operations are counted: one would do, but for BN at the coarsest level


def assumed_step(
    config: DepthConfig,
    size: tuple[int, int],
    card: str = "NVIDIA H100 80GB HBM3",
    share: float = ASSUMED_SHARE,
) -> float:
    """Return the seconds of one optimizer step at an assumed share of a card's bf16 peak.

    Args:
        config: The run.
        size: Height and width of its images.
        card: A key of `PEAKS`.
        share: Of the peak; the default is an assumption and no measurement.

    Raises:
        ValueError: The card's peak is not known here.
    """
    if card not in PEAKS:
        raise ValueError(f"The peak of {card!r} is not known: give one of {', '.join(PEAKS)}.")
    return flops_of_step(config, size) / (share * 1e12 * PEAKS[card])


def flops_of_step(config: DepthConfig, size: tuple[int, int]) -> float:
    """Count the floating-point operations of one optimizer step, in convolutions alone.

    One multiplication and one addition count as two. Labeled rows pass forward and backward.
    Unlabeled rows pass forward, and backward where the reading's gradient goes through them, but
    for their finest prediction, which is too small to leave out here. Two separate passes take
    the labeled rows forward twice.

    Args:
        config: The run.
        size: Height and width of its images.
    """
    forward, both = flops_of_image(config.width, config.levels, tuple(size))
    norm, labeled, unlabeled = config.norm, config.labeled_batch, config.unlabeled_batch
    if not has_unlabeled(config):
        return labeled * both
    extra = both if norm.stats_grad == "all" else forward
    apart = config.engine.passes == "two" or config.engine.compile or norm.source == "running"
    return labeled * both + (unlabeled + labeled * apart) * extra


@functools.cache
def flops_of_image(width: float, levels: int, size: tuple[int, int]) -> tuple[float, float]:
    """Return one image's operations, forward and in both directions, without computing any."""
    with torch.device("meta"):
        net = DispNet(width=width, levels=levels)
        images = torch.empty(IMAGES, 3, *size)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        net(images)
    with FlopCounterMode(display=False) as both:
        torch.stack([depth.mean() for depth in net(images)]).mean().backward()
    return forward.get_total_flops() / IMAGES, both.get_total_flops() / IMAGES


def has_unlabeled(config: DepthConfig) -> bool:
    """Whether the steps of a run read unlabeled images."""
    return config.norm.kind == "ubn" and config.labels.k > 1
