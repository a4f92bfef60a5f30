"""The look of a moment: sun, sky and haze, and what the camera makes of light."""

import math
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np

from synthetic_kitti.noise import fractal_noise
from synthetic_kitti.vectors import dot

LIGHTS = {
    "sunny": ((20, 56), (0.0, 0.3), (2e-4, 1.2e-3), 1.0),
    "low_sun": ((7, 18), (0.0, 0.3), (3e-4, 2.5e-3), 1.0),
    "overcast": ((20, 60), (0.85, 1.0), (3e-4, 3e-3), 1.0),
    "rain": ((20, 60), (0.95, 1.0), (3e-3, 9e-3), 0.75),
    "mist": ((15, 50), (0.5, 1.0), (6e-3, 1.6e-2), 0.8),
    "dusk": ((2, 5), (0.2, 0.9), (5e-4, 4e-3), 0.16),
}
"""By `Domain.light`: elevation of the sun in degrees, cloud cover in [0, 1], extinction per meter
(each from, to), and the strength of the daylight."""
BLUE, ZENITH = np.array((0.75, 0.9, 1.2)), np.array([[0.55], [0.8], [1.15]], np.float32)
SKY_GAIN = (4.5, 2.2)
"""How much brighter the sky is seen than it lights, from clear to covered: it is overexposed."""
PIVOT = 0.16  # the gray value that contrast leaves alone
LEVELS = 1 << 15  # steps of the camera's tone curve


@dataclass(frozen=True)
class Look:
    """Weather and camera settings of one moment."""

    sun: np.ndarray  # unit vector toward the sun, [3]
    sunlight: np.ndarray  # color and strength of direct light, [3]; weak under clouds
    skylight: np.ndarray  # color and strength of diffuse light, [3]
    clouds: float  # share of cloud cover in [0, 1]
    haze: float  # extinction per meter
    exposure: float
    gain: np.ndarray  # white balance, [3]
    contrast: float
    saturation: float
    noise: float  # standard deviation of sensor noise in mid gray, of a full scale of 1

    def __post_init__(self):
        for field in fields(self):  # one double would make every large array double
            value = getattr(self, field.name)
            narrow = np.asarray(value, np.float32) if np.ndim(value) else float(value)
            object.__setattr__(self, field.name, narrow)

    @classmethod
    def random(cls, rng: np.random.Generator, light: str) -> "Look":
        """Draw the weather and the camera of one drive with a kind of light."""
        elevations, covers, hazes, day = LIGHTS[light]
        elevation, azimuth = np.radians(rng.uniform(*elevations)), rng.uniform(0, 2 * np.pi)
        clouds, horizontal = rng.uniform(*covers), np.cos(elevation)
        warm = np.array((1.0, 0.95 - 0.3 * horizontal**4, 0.88 - 0.6 * horizontal**4))
        sunlight = 6.0 * day * (1 - clouds) ** 1.3 * warm
        skylight = day * (0.62 + 0.7 * clouds) * (BLUE + (1 - BLUE) * clouds)
        # The camera meters the ground: what the sun and the sky give a horizontal surface.
        metered = sunlight.mean() * np.sin(elevation) + skylight.mean()
        gain = np.exp(rng.normal(0, 0.05, 3))
        return cls(
            sun=np.array(
                (horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), np.sin(elevation))
            ),
            sunlight=sunlight,
            skylight=skylight,
            clouds=clouds,
            haze=float(np.exp(rng.uniform(*np.log(hazes)))),
            exposure=float(np.exp(rng.normal(-1.2, 0.3)))
            * (0.85 if day < 0.5 else 1)
            / metered**0.8,
            gain=gain / gain.prod() ** (1 / 3),
            contrast=rng.uniform(1.25, 1.75),
            saturation=rng.uniform(0.75, 1.3),
            noise=rng.uniform(0.005, 0.014) * (2.0 if day < 0.5 else 1.0),
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
        gain = float(np.interp(self.clouds, (0, 1), SKY_GAIN))
        horizon = gain * self.haze_color[:, None]
        zenith = gain * skylight * ZENITH * (1.8 - 0.4 * self.clouds)
        clear = horizon + (zenith - horizon) * (1 - np.exp(-3 * np.clip(z, 0, 1)))
        up = np.maximum(z, 0.04)
        cover = fractal_noise(x / up, y / up, 0.03, 0.01 / up**2) + 3.2 * self.clouds - 1.9
        share = np.clip(0.8 * cover, 0, 1) * np.clip(8 * z, 0, 1)
        white = (0.55 * skylight + 0.45 * self.skylight.mean()) * (
            (3.0 - self.clouds) * SKY_GAIN[1]
        )
        sky = clear + (white - clear) * share
        glare = np.clip(dot(self.sun, directions), 0, 1)
        sky += sunlight * ((0.35 * glare**24 + 6 * glare**900) * (1 - 0.8 * share))
        ridge = 0.018 + 0.012 * fractal_noise(np.arctan2(y, x), self.clouds, 0.02)
        hill = np.clip(1 - (z - ridge) / 0.003, 0, 1) * math.exp(-300 * self.haze)
        return sky + (0.12 * skylight - sky) * hill

    @property
    def haze_color(self) -> np.ndarray:
        """Color of the horizon."""
        return 1.4 * self.skylight + 0.16 * self.sunlight

    def develop(self, radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Turn light [3, ...] into uint8 sRGB as this camera would, with sensor noise."""
        scale = (-self.exposure * self.gain).reshape(3, *[1] * (radiance.ndim - 1))
        signal = 1 - np.exp(scale * np.maximum(radiance, 0))
        grain = _grain().take(np.arange(signal.size) + rng.integers(_grain().size), mode="wrap")
        signal += self.noise * np.sqrt(signal + np.float32(0.02)) * grain.reshape(signal.shape)
        signal = np.clip(signal, 0, 1)
        color = np.float32(1) * _tone().take(
            (signal * (LEVELS - 1) + np.float32(0.5)).astype(np.int32)
        )
        gray = (color[0] + color[1] + color[2]) * np.float32(1 / 3)
        color = gray + self.saturation * (color - gray)
        color = PIVOT + self.contrast * (color - PIVOT)
        return (255 * np.clip(color, 0, 1) + np.float32(0.5)).astype(np.uint8)


@cache
def _grain() -> np.ndarray:
    """Return a long strip of normal numbers; images begin anywhere on it, which is cheap."""
    return np.random.default_rng(20200615).standard_normal(1 << 18, np.float32)


@cache
def _tone() -> np.ndarray:
    """Return the tone curve, gamma 2.2, by level."""
    return (np.linspace(0, 1, LEVELS) ** (1 / 2.2)).astype(np.float32)
