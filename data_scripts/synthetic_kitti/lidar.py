"""The lidar: 64 spinning beams with noise, dropouts and reflectance."""

from functools import cache

import numpy as np

from synthetic_kitti.drive import Moment
from synthetic_kitti.raycast import SKY, cast
from synthetic_kitti.surfaces import surface
from synthetic_kitti.vectors import dot

BLOCKS = ((0.21, np.linspace(1.94, -8.7, 32)), (0.12, np.linspace(-9.03, -24.85, 32)))
"""Height of each block of lasers above the origin in meters, and its beams' elevations in degrees.

Fitted to the rings of real scans: each ring follows z = height + distance * tan(elevation). Hence
near things return higher in the image than the top beam's angle alone would allow.
"""
RANGE = 80.0  # meters
RANGE_NOISE = 0.02  # standard deviation in meters


@cache
def beam_directions(block: int, azimuth_steps: int) -> np.ndarray:
    """Return unit vectors [32, azimuth_steps, 3], counterclockwise from ahead."""
    elevation = np.radians(BLOCKS[block][1])
    azimuth = np.arange(azimuth_steps) * (2 * np.pi / azimuth_steps)
    elevation, azimuth = np.meshgrid(elevation, azimuth, indexing="ij")
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)


def scan(moment: Moment, azimuth_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Turn the lidar once.

    Returns are lost at random, more of them from dark, grazing, glossy or distant surfaces.

    Returns points [m, 4] float32: x forward, y left, z up in meters, and reflectance in [0, 1].
    """
    return np.concatenate([_scan_block(moment, n, azimuth_steps, rng) for n in range(len(BLOCKS))])


def _scan_block(moment, block, azimuth_steps, rng) -> np.ndarray:
    beams, above = beam_directions(block, azimuth_steps), np.array((0, 0, BLOCKS[block][0]))
    rays = (beams @ moment.turn.T).astype(np.float32)
    origin = (moment.position + moment.turn @ above).astype(np.float32)
    hits = cast(origin, rays, moment.world)
    rows = np.flatnonzero((hits.part != SKY) & (hits.distance < RANGE))
    distance, rays = hits.distance[rows], rays.reshape(-1, 3)[rows].T.copy()
    normals = hits.normal.T.take(rows, axis=1)
    points = origin[:, None] + distance * rays
    footprint = distance * np.float32(0.003)
    albedo, gloss = surface(
        points, normals, hits.part[rows], footprint, moment.world, moment.street
    )
    cosine = np.clip(-dot(normals, rays), 0, 1)
    strength = albedo.mean(axis=0) * (0.3 + 0.7 * cosine)
    loss = 0.04 + 0.3 * np.exp(-strength / 0.02) + 0.3 * np.exp(-cosine / 0.01)
    loss += 2.0 * gloss * (cosine < 0.95) + (0.25 + 25 * moment.look.haze) * (distance / RANGE) ** 2
    measured = distance + rng.normal(0, RANGE_NOISE, len(rows))
    kept = (rng.random(len(rows)) > loss) & (measured > 0.9) & (measured < RANGE)
    xyz = above + beams.reshape(-1, 3)[rows[kept]] * measured[kept, None]
    reflectance = np.clip(1.2 * strength[kept], 0, 0.99)
    # Written with the three and two decimals of KITTI's files.
    return np.column_stack([xyz.round(3), reflectance.round(2)]).astype(np.float32)
