"""Light: what arrives from surfaces and from the sky along the rays of a camera."""

import numpy as np

from synthetic_kitti.raycast import SKY, Hits
from synthetic_kitti.shadows import contact_shade
from synthetic_kitti.surfaces import surface
from synthetic_kitti.vectors import dot


def shade(origin, directions, hits: Hits, pixel: float, moment) -> np.ndarray:
    """Return the light that arrives along rays.

    Args:
        origin: Common start of the rays, [3].
        directions: Unit vectors, [3, n].
        hits: What `cast` found along them.
        pixel: Angle between neighboring rays, radians.
        moment: The `drive.Moment` seen: world, street, look and shadows.

    Returns:
        Linear light, [3, n] float32.
    """
    look, world = moment.look, moment.world
    radiance = np.empty(directions.shape, np.float32)
    rows, above = np.flatnonzero(hits.part != SKY), np.flatnonzero(hits.part == SKY)
    radiance[:, above] = look.sky(directions.take(above, axis=1))
    rays, normals = directions.take(rows, axis=1), hits.normal.T.take(rows, axis=1)
    distance = hits.distance[rows]
    points = origin.astype(np.float32)[:, None] + distance * rays
    cosine = np.clip(-dot(normals, rays), 0.02, 1)
    footprint = np.float32(pixel) * distance / np.sqrt(cosine)
    albedo, gloss = surface(points, normals, hits.part[rows], footprint, world, moment.street)
    facing = np.clip(dot(look.sun, normals), 0, 1)
    sunny = np.flatnonzero(facing)
    towards = (points.take(sunny, axis=1), normals.take(sunny, axis=1), facing[sunny])
    facing[sunny] *= moment.sun_map.light(*towards)
    low = 0.4 + 0.6 * np.clip(points[2] / 4.0, 0, 1)
    open_sky = (0.55 + 0.45 * normals[2]) * np.where(normals[2] > 0.9, np.float32(1), low)
    dark = np.zeros(len(rows), np.float32)
    flat = np.flatnonzero((normals[2] > 0.9) & (points[2] < 0.3))
    dark[flat] = contact_shade(points.take(flat, axis=1), world)
    light = look.sunlight[:, None] * (facing * (1 - 0.75 * dark))
    light += look.skylight[:, None] * (open_sky * (1 - 0.85 * dark))
    color = albedo * light
    shiny = np.flatnonzero(gloss > 0)
    share, slant = gloss[shiny], cosine[shiny]
    share += np.minimum(8 * share, 1) * (1 - share) * (1 - slant) ** 5
    mirror = rays.take(shiny, axis=1) + 2 * slant * normals.take(shiny, axis=1)
    reflected = look.sky(mirror) * np.where(mirror[2] > 0, np.float32(0.45), np.float32(0.12))
    color[:, shiny] += share * (reflected - color.take(shiny, axis=1))
    through = np.exp(-look.haze * distance)
    haze = look.haze_color[:, None]
    radiance[:, rows] = haze + (color - haze) * through
    return radiance
