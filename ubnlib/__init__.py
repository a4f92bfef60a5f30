"""Unsupervised Batch Normalization: the layer, the models and the data of the companion."""

from ubnlib.batchnorm import (
    UnsupervisedBatchNorm1d,
    UnsupervisedBatchNorm2d,
    UnsupervisedBatchNorm3d,
)
from ubnlib.convert import convert_ubn, register_norm, revert_ubn
from ubnlib.diagnostics import monte_carlo_predictions, refresh_statistics, statistics_gap
from ubnlib.dispnet import DispNet
from ubnlib.forward import collecting, ubn_forward, using

__version__ = "1.0.0"

__all__ = [
    "DispNet",
    "UnsupervisedBatchNorm1d",
    "UnsupervisedBatchNorm2d",
    "UnsupervisedBatchNorm3d",
    "collecting",
    "convert_ubn",
    "monte_carlo_predictions",
    "refresh_statistics",
    "register_norm",
    "revert_ubn",
    "statistics_gap",
    "ubn_forward",
    "using",
]
