"""Furnish a street: what stands beside it, who drives and walks in it."""

import numpy as np

from ubnlib.synthetic import props
from ubnlib.synthetic.solids import Material, Thing, block
from ubnlib.synthetic.street import Street

WALLS = np.array(
    [
        (0.62, 0.55, 0.42),
        (0.66, 0.64, 0.60),
        (0.42, 0.18, 0.12),
        (0.55, 0.38, 0.20),
        (0.40, 0.42, 0.44),
        (0.60, 0.42, 0.34),
        (0.38, 0.45, 0.40),
        (0.30, 0.24, 0.20),
    ]
)
ROOFS = np.array([(0.30, 0.10, 0.06), (0.22, 0.09, 0.06), (0.10, 0.10, 0.11), (0.18, 0.15, 0.13)])
LEAVES = np.array([(0.09, 0.16, 0.04), (0.06, 0.12, 0.04), (0.14, 0.17, 0.04), (0.26, 0.15, 0.03)])
SLABS = (0.32, 0.31, 0.30)


def furnish(
    rng: np.random.Generator, street: Street, start: float, stop: float, speed: float
) -> list[Thing]:
    """Draw everything in a street from `start` to `stop` along x.

    Args:
        rng: Source of every choice.
        street: The layout.
        start: Where the street begins, meters along x.
        stop: Where it ends; a row of houses or trees closes it there.
        speed: Speed of the recording car in m/s; a car ahead is never slower.

    Returns:
        Sidewalks, houses, plants, poles, cars and people.
    """
    leaf = LEAVES[rng.choice(len(LEAVES), p=[0.35, 0.3, 0.2, 0.15])] * rng.uniform(0.8, 1.2)
    things = _backdrop(rng, street, stop, leaf)
    for side in (-1, 1):
        things += _houses(rng, street, side, start, stop)
        things += _sidewalks(street, side, start, stop)
        things += _plants(rng, street, side, start, stop, leaf)
        things += _poles(rng, street, side, start, stop)
        things += _parked(rng, street, side, start, stop)
        things += _people(rng, street, side, start, stop)
    return things + _traffic(rng, street, stop, speed)


def _backdrop(rng, street, stop, leaf) -> list[Thing]:
    """Close the far end of a straight street with houses or trees."""
    things = []
    for y in np.arange(-36, 37, 12.0):
        if street.style == "country" or rng.random() < 0.3:
            things.append(props.tree(rng, stop + rng.uniform(0, 15), y, leaf, tall=True))
        else:
            wall, roof = WALLS[rng.integers(len(WALLS))], ROOFS[rng.integers(len(ROOFS))]
            height = rng.uniform(5, 16 if street.style == "city" else 8)
            things.append(props.house(rng, stop + 10, y, 11, height, wall, roof))
    return things


def _houses(rng, street, side, start, stop) -> list[Thing]:
    low, high, gap = {
        "city": ((9, 8), (19, 19), 0.0),
        "residential": ((8, 3.5), (13, 7), 5.0),
        "country": ((8, 3), (16, 6), 45.0),
    }[street.style]
    things, x = [], start + rng.uniform(0, gap)
    while x < stop:
        length, height = rng.uniform(low, high)
        middle = x + length / 2
        if any(abs(middle - at) < length / 2 + street.CROSSING + 3 for at in street.crossings):
            x += 2
            continue
        wall = WALLS[rng.integers(len(WALLS))] * rng.uniform(0.75, 1.15)
        setback = street.front + (0 if street.style == "city" else rng.uniform(0, 2.5))
        roof = ROOFS[rng.integers(len(ROOFS))] * rng.uniform(0.8, 1.3)
        things.append(props.house(rng, middle, side * setback, length, height, wall, roof))
        x += length + rng.uniform(0.4, 1.6) * gap
    return things


def _sidewalks(street, side, start, stop) -> list[Thing]:
    if not street.sidewalk:
        return []
    ends = [start - 30]
    for at in street.crossings:
        ends += [at - street.CROSSING - 2, at + street.CROSSING + 2]
    ends.append(stop + 10)
    y, things = side * (street.curb + street.sidewalk / 2), []
    for low, high in zip(ends[::2], ends[1::2], strict=True):
        length = (high - low) / np.ceil((high - low) / 16)  # short pieces are culled better
        for x in np.arange(low + length / 2, high, length):
            size, middle = (length, street.sidewalk, 0.13), (0, 0, 0.065)
            things.append(Thing([block(middle, size, Material.SIDEWALK, SLABS)], x, y))
    return things


def _along(rng, street, start, stop, spacing, margin=2.5):
    """Yield places along the street, irregular ones, outside the side streets."""
    for x in np.arange(start + rng.uniform(0, spacing), stop, spacing):
        x = float(x + rng.uniform(-0.25, 0.25) * spacing)
        if not street.is_open(x, margin):
            yield x


def _plants(rng, street, side, start, stop, leaf) -> list[Thing]:
    things = []
    density = {"city": 0.45, "residential": 0.6, "country": 0.8}[street.style]
    spacing = rng.uniform(7, 11)
    trees = rng.random() < 0.75
    for x in _along(rng, street, start, stop, spacing):
        if trees and rng.random() < density:
            offset = street.curb + (0.5 if street.sidewalk else rng.uniform(2.5, 6))
            if street.style == "residential":
                offset = street.front - 1.4
            tall = street.style != "residential"
            things.append(props.tree(rng, x, side * offset, leaf, tall))
    if street.style == "residential":
        for x in _along(rng, street, start, stop, 11.0, margin=6):
            kind = rng.random()
            edge = side * (street.curb + street.sidewalk + 0.5)
            if kind < 0.35:
                things.append(props.hedge(rng, x, edge, rng.uniform(5, 9), leaf))
            elif kind < 0.7:
                things.append(props.bush(rng, x, edge * 1.08, leaf))
    if street.style == "country":
        for x in _along(rng, street, start, stop, 13.0):
            far = side * rng.uniform(street.front * 0.6, street.front + 25)
            things.append(props.tree(rng, x, far, leaf, tall=True))
            things.append(props.bush(rng, x + 5, side * (street.curb + rng.uniform(2, 7)), leaf))
    return things


def _poles(rng, street, side, start, stop) -> list[Thing]:
    things, edge = [], side * (street.curb + 0.35)
    if street.style == "country":
        if rng.random() < 0.6:
            for x in np.arange(start, stop, 16.0):
                things.append(props.rail(x, side * (street.curb + 0.8), 15.8))
        return things
    if side == 1 or rng.random() < 0.4:
        height, spacing = rng.uniform(5.5, 7.5), rng.uniform(20, 28)
        things += [props.lamp(x, edge, height) for x in _along(rng, street, start, stop, spacing)]
    things += [props.sign(rng, x, edge) for x in _along(rng, street, start, stop, 26.0)]
    return things


def _parked(rng, street, side, start, stop) -> list[Thing]:
    if not street.parking:
        return []
    y, share = side * (street.curb - 1.0), rng.uniform(0.25, 0.85)
    return [
        props.car(rng, x, y + rng.normal(0, 0.06), (side > 0) * np.pi + rng.normal(0, 0.02))
        for x in np.arange(start, stop, 6.2)
        if rng.random() < share and not street.is_open(x, 5)
    ]


def _people(rng, street, side, start, stop) -> list[Thing]:
    if not street.sidewalk:
        return []
    spacing = 9.0 if street.style == "city" else 18.0
    near, far = street.curb + 0.7, street.curb + street.sidewalk - 0.4
    things = []
    for x in _along(rng, street, start, stop, spacing):
        velocity = rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
        if rng.random() < 0.75:
            things.append(props.person(rng, x, side * rng.uniform(near, far), velocity))
    return things


def _traffic(rng, street, stop, speed) -> list[Thing]:
    """Put one car ahead on most drives, and a few that come toward us."""
    things, y = [], street.lane / 2
    if rng.random() < 0.65:
        things.append(props.car(rng, rng.uniform(10, 30), -y, 0.0, speed * rng.uniform(1, 1.15)))
    x = rng.uniform(18, 50)
    while x < stop:
        things.append(props.car(rng, x, y, np.pi, -rng.uniform(6, 7)))
        x += rng.uniform(18, 60)
    return things
