"""The lidar: 64 spinning beams with noise, dropouts and reflectance."""

from functools import cache

import numpy as np

from ubnlib.synthetic.drive import Moment
from ubnlib.synthetic.raycast import SKY, cast
from ubnlib.synthetic.surfaces import surface
from ubnlib.synthetic.vectors import dot

ELEVATIONS = np.radians(
    np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.8, 32)])
)
"""Beams of the Velodyne HDL-64E: 32 a third of a degree apart, 32 below half a degree apart."""
RANGE = 80.0
"""Meters."""
RANGE_NOISE = 0.02
"""Standard deviation in meters."""


@cache
def beam_directions(azimuth_steps: int) -> np.ndarray:
    """Return unit vectors [64 * azimuth_steps, 3], beam by beam, counterclockwise from ahead."""
    azimuth = np.arange(azimuth_steps) * (2 * np.pi / azimuth_steps)
    elevation, azimuth = np.meshgrid(ELEVATIONS, azimuth, indexing="ij")
    flat = np.cos(elevation)
    rays = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)
    return rays.reshape(-1, 3)


def scan(moment: Moment, azimuth_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Turn the lidar once.

    Returns are lost at random, more of them from dark, grazing, glossy or distant surfaces.

    Args:
        moment: What there is to measure.
        azimuth_steps: Rays per beam and turn.
        rng: Source of noise and dropouts.

    Returns:
        Points [m, 4] float32: x forward, y left, z up in meters, and reflectance in [0, 1].
    """
    beams = beam_directions(azimuth_steps)
    rays = (beams @ moment.turn.T).astype(np.float32)
    hits = cast(moment.position, rays.reshape(len(ELEVATIONS), -1, 3), moment.world)
    rows = np.flatnonzero((hits.part != SKY) & (hits.distance < RANGE))
    distance, rays = hits.distance[rows], rays[rows].T.copy()
    normals = hits.normal.T.take(rows, axis=1)
    points = moment.position.astype(np.float32)[:, None] + distance * rays
    footprint = distance * np.float32(0.003)
    albedo, gloss = surface(
        points, normals, hits.part[rows], footprint, moment.world, moment.street
    )
    cosine = np.clip(-dot(normals, rays), 0, 1)
    strength = albedo.mean(axis=0) * (0.3 + 0.7 * cosine)
    loss = 0.02 + 0.25 * np.exp(-strength / 0.03) + 0.35 * np.exp(-cosine / 0.03)
    loss += 2.0 * gloss * (cosine < 0.95) + 0.25 * (distance / RANGE) ** 2
    measured = distance + rng.normal(0, RANGE_NOISE, len(rows))
    kept = (rng.random(len(rows)) > loss) & (measured > 0.9) & (measured < RANGE)
    xyz = beams[rows[kept]] * measured[kept, None]
    reflectance = np.clip(1.2 * strength[kept], 0, 0.99)
    # Written with the three and two decimals of KITTI's files.
    return np.column_stack([xyz.round(3), reflectance.round(2)]).astype(np.float32)
