"""The cameras: light along rays, images and dense depth by ray casting."""

from functools import lru_cache

import numpy as np

from synthetic_kitti.drive import Moment
from synthetic_kitti.raycast import SKY, Hits, cast
from synthetic_kitti.rig import Rig
from synthetic_kitti.shadows import contact_shade
from synthetic_kitti.surfaces import surface
from synthetic_kitti.vectors import dot


def shade(origin, directions, hits: Hits, pixel: float, moment) -> np.ndarray:
    """Return the linear light, [3, n] float32, that arrives at `origin` along unit vectors [3, n].

    `hits` is what `cast` found along them; `pixel` is the angle between neighboring rays, radians.
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


def render(moment: Moment, rig: Rig, camera: int, rng: np.random.Generator):
    """Photograph a moment with camera 2 (left) or 3 (right); `rng` makes the sensor's noise.

    One ray goes through the middle of every pixel. Textures are already averaged over the pixel;
    outlines are softened afterwards, as by a lens, which costs a tenth of more rays. Returns the
    image [H, W, 3] uint8, and depth [H, W] float32: camera z in meters, 0 for the sky.
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
