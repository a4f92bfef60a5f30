"""The toy problem of section 3.3: the TensorFlow Playground's spiral and a 5-layer network."""

from experiments.toy.net import SpiralNet
from experiments.toy.points import SpiralData, make_spiral, split_spiral

__all__ = ["SpiralData", "SpiralNet", "make_spiral", "split_spiral"]
