"""One drive: a street, its weather, and a recording car that moves through them."""

from dataclasses import dataclass

import numpy as np

from synthetic_kitti import traffic
from synthetic_kitti.domain import Domain, Palette
from synthetic_kitti.furnish import furnish
from synthetic_kitti.look import Look
from synthetic_kitti.rig import LIDAR_HEIGHT, rotation
from synthetic_kitti.shadows import SunMap
from synthetic_kitti.solids import World
from synthetic_kitti.street import Street, random_layout

PERIOD = 0.1  # seconds between frames, as in KITTI
VIEW = 95.0  # meters of street ahead of the last frame


@dataclass(frozen=True, eq=False)
class Moment:
    """Everything a sensor needs to record one frame."""

    world: World
    street: Street
    look: Look
    sun_map: SunMap
    position: np.ndarray  # where the lidar is in the world, [3]
    turn: np.ndarray  # rotation from velodyne axes to the world's, [3, 3]


class Drive:
    """A random street in random weather, and a random way of driving through it."""

    def __init__(self, rng: np.random.Generator, frames: int, domain: Domain):
        self.domain = domain
        palette = Palette.random(rng, self.domain.season)
        self.look = Look.random(rng, self.domain.light)
        longest = frames * PERIOD * max(traffic.SPEEDS[self.domain.street]) + VIEW
        wet = self.domain.light == "rain"
        self.street = random_layout(rng, longest, self.domain.street, palette, wet)
        self.speed, jammed = traffic.random_speed(rng, self.street)
        stop = frames * PERIOD * self.speed + VIEW
        own = int(rng.integers(self.street.lanes))
        self.lane = -(own + 0.5) * self.street.lane
        curve, things = self.street.curve, furnish(rng, self.street, palette, -25.0, stop)
        things += traffic.flow(rng, self.street, stop, self.speed, own, jammed)
        self.at_rest = [thing.placed(curve) for thing in things if not thing.velocity]
        self.moving = [thing for thing in things if thing.velocity]
        world = World.of(self.at_rest)
        self.sun_map = SunMap(self.look.sun, world, (-15.0, stop - 30), curve)
        self.offset = rng.normal(0, 0.15)
        self.pitch = rng.normal(0, np.radians(0.6))
        self.phase, self.pace = rng.uniform(0, 2 * np.pi, 8), rng.uniform(0.3, 1.2, 8)

    def describe(self) -> dict[str, str | float | None]:
        """Return the domain by name, and the numbers that it was refined to."""
        look, curve = self.look, self.street.curve
        numbers = {
            "speed_m_per_s": self.speed,
            "lanes_each_way": self.street.lanes,
            "tightest_radius_m": curve.tightest if curve.swing else None,
            "sun_elevation_deg": float(np.degrees(np.arcsin(look.sun[2]))),
            "cloud_cover": look.clouds,
            "haze_per_m": look.haze,
            "exposure": look.exposure,
        }
        rounded = {k: v if v is None else float(f"{v:.4g}") for k, v in numbers.items()}
        return self.domain._asdict() | rounded

    def at(self, frame: int) -> Moment:
        """Return the state of the world and of the car at a frame."""
        seconds = frame * PERIOD
        waves = np.sin(self.phase + 2 * np.pi * self.pace * seconds / 4)
        curve, x = self.street.curve, self.speed * seconds
        y = curve.at(x) + self.lane + self.offset + 0.12 * waves[0]
        pitch = self.pitch + np.radians(0.25) * waves[1]
        yaw = np.arctan(curve.slope(x)) + np.radians(0.8) * waves[2]
        return Moment(
            World.of(self.at_rest + [thing.placed(curve, seconds) for thing in self.moving]),
            self.street,
            self.look.drifted(np.array((0.12, 0.15, 0.03, 0.2)) * waves[4:]),
            self.sun_map,
            np.array((x, y, LIDAR_HEIGHT)),
            rotation(np.radians(0.3) * waves[3], pitch, yaw),
        )
