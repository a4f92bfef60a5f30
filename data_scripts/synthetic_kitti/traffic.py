"""Who uses a street: parked cars, people, and traffic in every lane."""

import numpy as np

from synthetic_kitti import props
from synthetic_kitti.solids import Thing
from synthetic_kitti.street import Street

SPEEDS = {"city": (5, 12), "residential": (4, 9), "country": (12, 22), "highway": (20, 32)}
"""Of the recording car where traffic flows, m/s."""


def random_speed(rng: np.random.Generator, street: Street) -> tuple[float, bool]:
    """Draw the speed of the recording car in m/s, and whether it is stuck in dense traffic."""
    jammed = street.lanes > 1 and rng.random() < 0.55
    return (rng.uniform(1, 5) if jammed else rng.uniform(*SPEEDS[street.style])), jammed


def flow(
    rng: np.random.Generator, street: Street, stop: float, speed: float, own: int, jammed: bool
) -> list[Thing]:
    """Fill the lanes; all who share a lane have one speed, so nobody runs into another.

    `speed` and lane `own` (0 next to the middle) are the recording car's; those ahead of it are
    never slower. `jammed` is whether its direction is full of slow cars.
    """
    things = []
    fast = street.style in ("country", "highway")
    for lane in range(street.lanes):
        y, gap = -(lane + 0.5) * street.lane, (1, 4) if jammed else (12, 60) if fast else (7, 40)
        first = rng.uniform(6, 13 if jammed else 32) if lane == own else rng.uniform(-25, 10)
        pace = speed * (rng.uniform(1, 1.15) if lane == own else rng.uniform(0.6, 1.3))
        if jammed or lane != own or rng.random() < 0.75:
            things += _lane(rng, y, first, stop, pace, 0.0, gap, trucks=0.06 + 0.22 * lane)
        oncoming = rng.uniform(*SPEEDS[street.style])
        gap, first = ((15, 70) if fast else (8, 45)), rng.uniform(5, 40)
        things += _lane(rng, -y, first, stop + 60, -oncoming, np.pi, gap, trucks=0.1)
    return things


def _lane(rng, y, first, stop, velocity, yaw, gap, trucks) -> list[Thing]:
    """Line up vehicles from `first` on, with gaps [from, to] between their ends."""
    things, rear = [], first
    while rear < stop:
        make = props.truck if rng.random() < trucks else props.car
        thing = make(rng, 0.0, y + rng.normal(0, 0.12), yaw, velocity)
        half = thing.contact[0]
        thing.x = rear + half
        things.append(thing)
        rear += 2 * half + rng.uniform(*gap)
    return things


def parked(rng, street: Street, side: int, start: float, stop: float) -> list[Thing]:
    """Park cars on the strip of one side (-1 or 1) of a built-up street."""
    if not street.strip or not street.sidewalk:
        return []
    y, share = side * (street.curb - 1.0), rng.uniform(0.25, 0.9)
    return [
        props.car(rng, x, y + rng.normal(0, 0.06), (side > 0) * np.pi + rng.normal(0, 0.02))
        for x in np.arange(start, stop, 6.2)
        if rng.random() < share and not street.is_open(x, 5)
    ]


def people(rng, street: Street, side: int, start: float, stop: float) -> list[Thing]:
    """Let people walk on the sidewalk of one side."""
    if not street.sidewalk:
        return []
    near, far = street.curb + 0.7, street.curb + street.sidewalk - 0.4
    things = []
    for x in street.along(rng, start, stop, 9.0 if street.style == "city" else 18.0):
        velocity = rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
        if rng.random() < 0.75:
            things.append(props.person(rng, x, side * rng.uniform(near, far), velocity))
    return things
