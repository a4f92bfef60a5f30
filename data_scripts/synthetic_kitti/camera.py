"""The cameras: images and dense depth by ray casting."""

from functools import lru_cache

import numpy as np

from synthetic_kitti.drive import Moment
from synthetic_kitti.light import shade
from synthetic_kitti.raycast import SKY, cast
from synthetic_kitti.rig import Rig


def render(moment: Moment, rig: Rig, camera: int, rng: np.random.Generator):
    """Photograph a moment.

    One ray goes through the middle of every pixel. Textures are already averaged over the pixel;
    outlines are softened afterwards, as by a lens, which costs a tenth of more rays.

    Args:
        moment: What there is to see.
        rig: The cameras.
        camera: Which of them, 2 (left) or 3 (right).
        rng: Source of sensor noise.

    Returns:
        Image [H, W, 3] uint8, and depth [H, W] float32: camera z in meters, 0 for the sky.
    """
    center, rays, forward = _pixel_rays(rig, camera)
    origin = moment.position + moment.turn @ center
    rays = (rays @ moment.turn.T).astype(np.float32)
    hits = cast(origin, rays.reshape(*rig.shape, 3), moment.world)
    light = shade(origin, np.ascontiguousarray(rays.T), hits, 1 / rig.focal, moment)
    light = soften_outlines(light.reshape(3, *rig.shape), hits.part.reshape(rig.shape))
    depth = np.where(hits.part == SKY, 0, hits.distance * forward)
    image = np.moveaxis(moment.look.develop(light, rng), 0, -1)
    return np.ascontiguousarray(image), depth.reshape(rig.shape).astype(np.float32)


@lru_cache(maxsize=4)
def _pixel_rays(rig: Rig, camera: int):
    """Return `Rig.rays` through the middle of every pixel, which are the same in every frame."""
    return rig.rays(camera, *np.indices(rig.shape).reshape(2, -1))


def soften_outlines(light: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Average light [3, H, W] over 3 x 3 pixels wherever a neighbor shows another part [H, W]."""
    edge = np.zeros(part.shape, bool)
    across, down = part[:, 1:] != part[:, :-1], part[1:] != part[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    # Clipped first, so that a dark pole keeps its outline against a glaring sky.
    padded = np.pad(np.minimum(light, 4), ((0, 0), (1, 1), (1, 1)), mode="edge")
    columns = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    mean = (columns[:, :-2] + 2 * columns[:, 1:-1] + columns[:, 2:]) / 16
    return np.where(edge, mean, light)
