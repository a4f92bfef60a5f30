"""Shadows: those the sun casts, and the dark patch that anything near the ground leaves on it."""

import numpy as np

from synthetic_kitti.raycast import cast
from synthetic_kitti.solids import World
from synthetic_kitti.street import Curve

SUN_DISTANCE = 1500.0  # meters; far enough for nearly parallel rays, near enough for float32
HALF, CELL = 18.0, 0.25  # meters from the road's middle to the border, and between rays there


class SunMap:
    """Shadows of everything at rest: the scene seen once from the sun.

    It reaches over `x`, first and last meter along the road, whose `curve` it follows.
    """

    def __init__(self, sun: np.ndarray, world: World, x: tuple[float, float], curve: Curve):
        self.start, self.curve = np.array((x[0], -HALF), np.float32), curve
        self.origin = np.array((np.mean(x), 0, 0), np.float32) + np.float32(SUN_DISTANCE) * sun
        target = np.zeros((int((x[1] - x[0]) / CELL), int(2 * HALF / CELL), 3), np.float32)
        target[..., 0] = x[0] + CELL * np.arange(target.shape[0])[:, None]
        target[..., 1] = -HALF + CELL * np.arange(target.shape[1])
        target[..., 1] += curve.at(target[..., 0])
        rays = target - self.origin
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        hits = cast(self.origin, rays, world)
        self.distance = hits.distance.reshape(rays.shape[:2])

    def light(self, points: np.ndarray, normals: np.ndarray, facing: np.ndarray) -> np.ndarray:
        """Return the share of sunlight, in [0, 1], that reaches surfaces.

        Points and normals are [3, n]; `facing` [n] their cosines toward the sun, positive.
        """
        # Looked up a little off the surface, or a wall that the sun grazes would shade itself.
        x, y, z = points + np.float32(1.2 * CELL) * normals - self.origin[:, None]
        scale = -self.origin[2] / z
        # Where the sun grazes a surface, neighboring cells see it at very different distances.
        margin = np.minimum(np.float32(0.25) + np.float32(0.15) / facing, np.float32(3))
        length = np.sqrt(x * x + y * y + z * z) - margin
        x, y = x * scale + self.origin[0], y * scale + self.origin[1]
        row = (x - self.start[0]) / CELL
        column = (y - self.curve.at(x) - self.start[1]) / CELL
        top, left = np.floor(row), np.floor(column)
        down, right = row - top, column - left
        rows, columns = self.distance.shape
        known = (top >= 0) & (top < rows - 1) & (left >= 0) & (left < columns - 1)
        corner = np.where(known, top * columns + left, 0).astype(np.int32)
        flat = self.distance.ravel()
        one, two, three, four = (
            length < flat.take(corner + step) for step in (0, 1, columns, columns + 1)
        )
        upper, lower = one * (1 - right) + two * right, three * (1 - right) + four * right
        return np.where(known, upper + down * (lower - upper), np.float32(1))


def contact_shade(points: np.ndarray, world: World) -> np.ndarray:
    """Return how dark things make the ground points [3, n] beside and below them, in [0, 1]."""
    x, y, _ = points
    dark = np.zeros(len(x), np.float32)
    low, high = x.min(initial=np.inf), x.max(initial=-np.inf)
    for thing in world.things:
        if thing.contact is None or not low - 4 < thing.x < high + 4:
            continue
        reach = max(thing.contact) + 0.6
        near = np.flatnonzero(np.abs(x - thing.x) < reach)
        near = near[np.abs(y[near] - thing.y) < reach]
        along, across = x[near] - thing.x, y[near] - thing.y
        cosine, sine = float(np.cos(thing.yaw)), float(np.sin(thing.yaw))
        outside = np.maximum(
            np.abs(cosine * along + sine * across) - thing.contact[0] + 0.1,
            np.abs(cosine * across - sine * along) - thing.contact[1] + 0.1,
        )
        dark[near] = np.maximum(dark[near], np.clip(1 - outside / 0.55, 0, 1) ** 1.5)
    return dark
