"""Furnish a street: what stands beside it and above it."""

import numpy as np

from synthetic_kitti import props, traffic
from synthetic_kitti.domain import Palette
from synthetic_kitti.solids import Material, Thing, block
from synthetic_kitti.street import Street

SLABS = np.array((0.32, 0.31, 0.30))
GRAY = (0.42, 0.42, 0.40)


def furnish(
    rng: np.random.Generator, street: Street, palette: Palette, start: float, stop: float
) -> list[Thing]:
    """Draw all beside a street from `start` to `stop`, meters along x, where houses close it."""
    things = _backdrop(rng, street, palette, stop)
    if street.lanes > 1 and rng.random() < 0.5:
        place = rng.uniform(25, 70)
        if not street.is_open(place, 8):
            things.append(props.overpass(rng, place, street.front + 0.5))
    if street.style == "highway":
        things += _wall(rng, 0.0, start, stop, 0.8, GRAY)
    for side in (-1, 1):
        things += _houses(rng, street, palette, side, start, stop)
        things += _sidewalks(street, palette, side, start, stop)
        plants = _rural_plants if street.style in ("country", "highway") else _urban_plants
        things += plants(rng, street, palette, side, start, stop)
        things += _edge(rng, street, palette, side, start, stop)
        things += traffic.parked(rng, street, side, start, stop)
        things += traffic.people(rng, street, side, start, stop)
    return things


def _backdrop(rng, street, palette, stop) -> list[Thing]:
    """Close the far end of a street with houses or trees."""
    things, rural = [], street.style in ("country", "highway")
    for y in np.arange(-60, 61, 12.0):
        if rural or rng.random() < 0.3:
            things.append(props.tree(rng, stop + rng.uniform(0, 15), y, palette, tall=True))
        else:
            height = rng.uniform(5, 16 if street.style == "city" else 8)
            things.append(props.house(rng, stop + 10, y, 11, height, palette.snow))
    return things


def _houses(rng, street, palette, side, start, stop) -> list[Thing]:
    if street.style == "highway":
        return []
    low, high, gap = {
        "city": ((9, 8), (19, 20), rng.choice((0.0, 0.0, 12.0))),
        "residential": ((8, 4), (14, 8.5), 4.0),
        "country": ((8, 3), (16, 6), 45.0),
    }[street.style]
    things, x = [], start + rng.uniform(0, gap)
    while x < stop:
        length, height = rng.uniform(low, high)
        middle = x + length / 2
        if any(abs(middle - at) < length / 2 + street.CROSSING + 3 for at in street.crossings):
            x += 2
            continue
        setback = street.front + (0 if gap == 0 else rng.uniform(0, 2.5))
        y = side * setback
        things.append(props.house(rng, middle, y, length, height, palette.snow))
        x += length + rng.uniform(0.4, 1.6) * gap
    return things


def _sidewalks(street, palette, side, start, stop) -> list[Thing]:
    if not street.sidewalk:
        return []
    ends = [start - 30]
    for at in street.crossings:
        ends += [at - street.CROSSING - 2, at + street.CROSSING + 2]
    ends.append(stop + 10)
    color = tuple(SLABS + 0.7 * palette.snow * (props.SNOW - SLABS))
    y, things = side * (street.curb + street.sidewalk / 2), []
    for low, high in zip(ends[::2], ends[1::2], strict=True):
        if high <= low:  # the street ends at a crossing
            continue
        # Short pieces are culled better, and follow bends.
        longest = 8 if street.curve.swing else 16
        length = (high - low) / np.ceil((high - low) / longest)
        for x in np.arange(low + length / 2, high, length):
            size, middle = (length, street.sidewalk, 0.13), (0, 0, 0.065)
            things.append(Thing([block(middle, size, Material.SIDEWALK, color)], x, y))
    return things


def _urban_plants(rng, street, palette, side, start, stop) -> list[Thing]:
    things, city = [], street.style == "city"
    if rng.random() < 0.75:
        offset = street.curb + 0.5 if city else street.front - 1.4
        for x in street.along(rng, start, stop, rng.uniform(7, 11)):
            if rng.random() < (0.5 if city else 0.6):
                things.append(props.tree(rng, x, side * offset, palette, tall=city))
    if not city:
        for x in street.along(rng, start, stop, 11.0, margin=6):
            kind = rng.random()
            edge = side * (street.curb + street.sidewalk + 0.5)
            if kind < 0.35:
                things.append(props.hedge(rng, x, edge, rng.uniform(5, 9), palette))
            elif kind < 0.7:
                things.append(props.bush(rng, x, edge * 1.08, palette))
    return things


def _rural_plants(rng, street, palette, side, start, stop) -> list[Thing]:
    """Plant an avenue, a wood, or scattered trees and bushes; raise a bank below some of them."""
    things, kind = [], rng.choice(["avenue", "wood", "scattered"])
    nearest = street.curb + rng.uniform(2.5, 6)
    if rng.random() < 0.35:
        width, height = rng.uniform(5, 9), rng.uniform(1, 3)
        y = side * (street.curb + 1.5 + width / 2)
        for x in np.arange(start, stop, 8.0):
            things.append(props.bank(x, y, 8.2, width, height, palette.grass))
        nearest += width
    for x in street.along(rng, start, stop, {"avenue": 9.0, "wood": 5.0}.get(kind, 12.0)):
        near = (
            nearest if kind == "avenue" else nearest + rng.uniform(0, 5 if kind == "wood" else 25)
        )
        things.append(props.tree(rng, x, side * near, palette, tall=True))
        if rng.random() < 0.6:
            things.append(props.bush(rng, x + 2, side * (near - rng.uniform(0.5, 2)), palette))
    return things


def _edge(rng, street, palette, side, start, stop) -> list[Thing]:
    """Put lamps and signs, rails or walls along the edge of the road."""
    things, y = [], side * (street.curb + 0.8)
    if not street.sidewalk:
        if street.style == "highway" and rng.random() < 0.35:
            height, shade = rng.uniform(2, 4), rng.uniform(0.5, 1.2)
            return _wall(rng, y + side, start, stop, height, np.array(GRAY) * shade)
        if rng.random() < 0.6:
            things += [props.rail(x, y, 7.9) for x in np.arange(start, stop, 8.0)]
        return things
    y = side * (street.curb + 0.35)
    if side == 1 or rng.random() < 0.4:
        height, spacing = rng.uniform(5.5, 7.5), rng.uniform(20, 28)
        things += [props.lamp(x, y, height) for x in street.along(rng, start, stop, spacing)]
    return things + [props.sign(rng, x, y) for x in street.along(rng, start, stop, 26.0)]


def _wall(rng, y, start, stop, height, color) -> list[Thing]:
    return [
        props.barrier(x, y, 8.05, height, np.array(color) * rng.uniform(0.9, 1.1))
        for x in np.arange(start, stop, 8.0)
    ]
