"""Small folders of RGB-D frames with random content."""

import numpy as np
from PIL import Image

NATIVE = (10, 15)  # 2.5 pixels a cell at 4x6, so that cells share pixels


def random_frame(seed, native=NATIVE):
    """Return an image and a depth map in millimeters, a third of it without a measurement."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (*native, 3), np.uint8)
    depth = generator.integers(400, 4000, native).astype(np.uint16)
    depth[generator.random(native) < 0.33] = 0
    return pixels, depth


def write_frame(root, name, pixels, depth, suffix=".png"):
    """Write a frame's files; None leaves one out."""
    for folder, ending, array in (("image", suffix, pixels), ("depth", ".png", depth)):
        path = root / folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if array is not None:
            Image.fromarray(array).save(path)


def write_folder(root, frames=range(6), native=NATIVE):
    for frame in frames:
        write_frame(root, f"{frame:06d}", *random_frame(frame, native))
    return root
