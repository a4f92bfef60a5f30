"""The toy problem of section 3.3: the TensorFlow Playground's spiral and a 5-layer network."""

from ubnlib.spiral.net import SpiralNet
from ubnlib.spiral.points import SpiralData, make_spiral, split_spiral

__all__ = ["SpiralData", "SpiralNet", "make_spiral", "split_spiral"]
