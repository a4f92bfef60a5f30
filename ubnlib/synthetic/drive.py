"""One drive: a street, its weather, and a recording car that moves through them."""

from dataclasses import dataclass

import numpy as np

from ubnlib.synthetic.furnish import furnish
from ubnlib.synthetic.light import Look
from ubnlib.synthetic.rig import LIDAR_HEIGHT, rotation
from ubnlib.synthetic.shadows import SunMap
from ubnlib.synthetic.solids import World
from ubnlib.synthetic.street import Street, random_layout

PERIOD = 0.1
"""Seconds between frames, as in KITTI."""
VIEW = 95.0
"""Meters of street ahead of the last frame."""


@dataclass(frozen=True, eq=False)
class Moment:
    """Everything a sensor needs to record one frame."""

    world: World
    street: Street
    look: Look
    sun_map: SunMap
    position: np.ndarray
    """Where the lidar is in the world, [3]."""
    turn: np.ndarray
    """Rotation from velodyne axes to the world's, [3, 3]."""


class Drive:
    """A random street and a random way of driving through it.

    Args:
        rng: Source of every choice.
        frames: How many frames the drive lasts.
    """

    def __init__(self, rng: np.random.Generator, frames: int):
        self.speed = rng.uniform(5, 11)
        stop = frames * PERIOD * self.speed + VIEW
        self.street = random_layout(rng, stop)
        self.look = Look.random(rng)
        self.things = furnish(rng, self.street, -25.0, stop, self.speed)
        at_rest = World.of([thing for thing in self.things if not thing.velocity])
        self.sun_map = SunMap(self.look.sun, at_rest, (-15.0, stop - 30))
        self.offset = rng.normal(0, 0.15)
        self.pitch = rng.normal(0, np.radians(0.9))
        self.phase, self.pace = rng.uniform(0, 2 * np.pi, 8), rng.uniform(0.3, 1.2, 8)

    def at(self, frame: int) -> Moment:
        """Return the state of the world and of the car at a frame."""
        seconds = frame * PERIOD
        waves = np.sin(self.phase + 2 * np.pi * self.pace * seconds / 4)
        y = -self.street.lane / 2 + self.offset + 0.12 * waves[0]
        pitch = self.pitch + np.radians(0.25) * waves[1]
        yaw, roll = np.radians(0.8) * waves[2], np.radians(0.3) * waves[3]
        return Moment(
            World.of([thing.at(seconds) for thing in self.things]),
            self.street,
            self.look.drifted(np.array((0.12, 0.15, 0.03, 0.2)) * waves[4:]),
            self.sun_map,
            np.array((self.speed * seconds, y, LIDAR_HEIGHT)),
            rotation(roll, pitch, yaw),
        )
