"""Light: the sun, the sky, haze, and what the camera makes of them."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from ubnlib.synthetic.noise import fractal_noise
from ubnlib.synthetic.raycast import SKY, Hits
from ubnlib.synthetic.shadows import contact_shade
from ubnlib.synthetic.surfaces import surface
from ubnlib.synthetic.vectors import dot


@dataclass(frozen=True)
class Look:
    """Weather and camera settings of one moment."""

    sun: np.ndarray
    """Unit vector toward the sun, [3]."""
    sunlight: np.ndarray
    """Color and strength of direct light, [3]; weak under clouds."""
    skylight: np.ndarray
    """Color and strength of diffuse light, [3]."""
    clouds: float
    """Share of cloud cover in [0, 1]."""
    haze: float
    """Extinction per meter."""
    exposure: float
    gain: np.ndarray
    """White balance, [3]."""
    contrast: float
    saturation: float
    noise: float
    """Standard deviation of sensor noise in mid gray, of a full scale of 1."""

    def __post_init__(self):
        for field in fields(self):  # one double would make every large array double
            value = getattr(self, field.name)
            narrow = np.asarray(value, np.float32) if np.ndim(value) else float(value)
            object.__setattr__(self, field.name, narrow)

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Look":
        """Draw the weather and the camera of one drive; drives differ strongly."""
        elevation, azimuth = np.radians(rng.uniform(14, 62)), rng.uniform(0, 2 * np.pi)
        clouds = rng.uniform(0, 1)
        horizontal = np.cos(elevation)
        warm = np.array((1.0, 0.93 - 0.25 * horizontal**3, 0.85 - 0.5 * horizontal**3))
        blue = np.array((0.75, 0.9, 1.2))
        gain = np.exp(rng.normal(0, 0.1, 3))
        return cls(
            sun=np.array(
                (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), np.sin(elevation))
            ),
            sunlight=4.4 * (1 - clouds) ** 1.3 * warm,
            skylight=(0.6 + 0.45 * clouds) * (blue + (1 - blue) * clouds),
            clouds=clouds,
            haze=float(np.exp(rng.uniform(np.log(0.0008), np.log(0.012)))),
            exposure=float(np.exp(rng.uniform(-1.1, 0.5))),
            gain=gain / gain.prod() ** (1 / 3),
            contrast=rng.uniform(0.85, 1.5),
            saturation=rng.uniform(0.7, 1.5),
            noise=rng.uniform(0.006, 0.022),
        )

    def drifted(self, amount: np.ndarray) -> "Look":
        """Return the look a little later; `amount` [4] are small numbers about zero."""
        exposure, haze, warmth, cover = np.exp(np.asarray(amount))
        return replace(
            self,
            exposure=self.exposure * exposure,
            haze=self.haze * haze,
            gain=self.gain * np.array((warmth, 1, 1 / warmth)),
            sunlight=self.sunlight * cover,
        )

    def sky(self, directions: np.ndarray) -> np.ndarray:
        """Return the light that comes from directions [3, n] of the sky, [3, n]."""
        x, y, z = directions
        skylight, sunlight = self.skylight[:, None], self.sunlight[:, None]
        horizon = self.haze_color[:, None]
        blue = np.array([[0.55], [0.8], [1.15]], np.float32)
        zenith = skylight * blue * (1.25 - 0.35 * self.clouds)
        clear = horizon + (zenith - horizon) * (1 - np.exp(-5 * np.clip(z, 0, 1)))
        up = np.maximum(z, 0.04)
        cover = fractal_noise(x / up, y / up, 0.03, 0.01 / up**2) + 3.2 * self.clouds - 1.9
        share = np.clip(0.8 * cover, 0, 1) * np.clip(8 * z, 0, 1)
        white = (0.55 * skylight + 0.45 * self.skylight.mean()) * (1.9 - 0.4 * self.clouds)
        sky = clear + (white - clear) * share
        glare = np.clip(dot(self.sun, directions), 0, 1)
        sky += sunlight * ((0.35 * glare**24 + 6 * glare**900) * (1 - 0.8 * share))
        ridge = 0.018 + 0.012 * fractal_noise(np.arctan2(y, x), self.clouds, 0.02)
        hill = np.clip(1 - (z - ridge) / 0.003, 0, 1) * math.exp(-300 * self.haze)
        return sky + (0.12 * skylight - sky) * hill

    @property
    def haze_color(self) -> np.ndarray:
        """Color of the horizon."""
        return 1.1 * self.skylight + 0.1 * self.sunlight + 0.05

    def develop(self, radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Turn light [3, ...] into uint8 sRGB as this camera would, with sensor noise."""
        scale = (-self.exposure * self.gain).reshape(3, *[1] * (radiance.ndim - 1))
        signal = 1 - np.exp(scale * np.maximum(radiance, 0))
        grain = rng.standard_normal(signal.shape, np.float32)
        signal = np.clip(signal + self.noise * np.sqrt(signal + 0.02) * grain, 0, 1)
        color = signal ** (1 / 2.2)
        gray = color.mean(axis=0)
        color = gray + self.saturation * (color - gray)
        color = 0.45 + self.contrast * (color - 0.45)
        return np.round(255 * np.clip(color, 0, 1)).astype(np.uint8)


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
    facing[sunny] *= moment.sun_map.light(points.take(sunny, axis=1), normals.take(sunny, axis=1))
    low = 0.55 + 0.45 * np.clip(points[2] / 2.0, 0, 1)
    open_sky = (0.62 + 0.38 * normals[2]) * np.where(normals[2] > 0.9, np.float32(1), low)
    dark = np.zeros(len(rows), np.float32)
    flat = np.flatnonzero((normals[2] > 0.9) & (points[2] < 0.3))
    dark[flat] = contact_shade(points.take(flat, axis=1), world)
    light = look.sunlight[:, None] * (facing * (1 - 0.75 * dark))
    light += look.skylight[:, None] * (open_sky * (1 - 0.85 * dark))
    color = albedo * light
    shiny = np.flatnonzero(gloss > 0)
    share, slant = gloss[shiny], cosine[shiny]
    share += (1 - share) * (1 - slant) ** 5
    mirror = rays.take(shiny, axis=1) + 2 * slant * normals.take(shiny, axis=1)
    reflected = look.sky(mirror) * np.where(mirror[2] > 0, np.float32(1), np.float32(0.25))
    color[:, shiny] += share * (reflected - color.take(shiny, axis=1))
    through = np.exp(-look.haze * distance)
    haze = look.haze_color[:, None]
    radiance[:, rows] = haze + (color - haze) * through
    return radiance
