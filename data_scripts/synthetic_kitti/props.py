"""What stands, walks and drives in a street: functions from a few numbers to a thing."""

import numpy as np

from synthetic_kitti.domain import Palette
from synthetic_kitti.solids import Material, Part, Thing, block, rounded

CAR_COLORS = np.array(
    [
        (0.55, 0.56, 0.58),
        (0.82, 0.82, 0.80),
        (0.03, 0.03, 0.035),
        (0.12, 0.13, 0.15),
        (0.05, 0.11, 0.30),
        (0.42, 0.04, 0.04),
        (0.30, 0.33, 0.36),
        (0.08, 0.20, 0.14),
    ]
)
CARS = {
    "hatch": (3.9, 1.76, 0.9, 1.48, 1.0, 0.08, 0.68, -0.09),
    "saloon": (4.6, 1.76, 0.9, 1.42, 1.25, 0.75, 0.68, -0.09),
    "estate": (4.6, 1.76, 0.9, 1.5, 1.2, 0.08, 0.68, -0.09),
    "van": (5.2, 1.95, 1.15, 2.3, 0.6, 0.04, 0.93, -0.02),
}
"""Length, width, waist, roof, hood and trunk in meters; length of the roof and its shift forward,
both relative to the cabin."""
TRUCK_COLORS = np.array(
    [
        (0.70, 0.70, 0.68),
        (0.42, 0.43, 0.44),
        (0.45, 0.05, 0.04),
        (0.05, 0.10, 0.28),
        (0.04, 0.14, 0.11),
        (0.60, 0.42, 0.06),
    ]
)


def pick(rng: np.random.Generator, colors: np.ndarray) -> tuple:
    """Return one of the rows of `colors`, a little darker or lighter."""
    return tuple(colors[rng.integers(len(colors))] * rng.uniform(0.85, 1.1))


def car(rng: np.random.Generator, x: float, y: float, yaw: float, velocity: float = 0.0) -> Thing:
    """Return a hatchback, a saloon, an estate or, rarely, a van."""
    kind = str(rng.choice(list(CARS), p=[0.35, 0.3, 0.22, 0.13]))
    length, width, waist, roof, hood, trunk, slant, shift = CARS[kind]
    length, roof = length * rng.uniform(0.95, 1.05), roof * rng.uniform(0.97, 1.04)
    color, sill = pick(rng, CAR_COLORS), 0.24
    cabin, middle = length - hood - trunk, (trunk - hood) / 2
    body = (0, 0, (0.62 + waist) / 2), (length, width, waist - 0.62)
    above = (middle, 0, (waist + roof) / 2), (cabin, width * 0.92, roof - waist)
    parts = [
        block((0, 0, (sill + 0.62) / 2), (length, width, 0.62 - sill), Material.BODY, color),
        block(*body, Material.BODY, color, top=(0.95, 0.93)),
        block(*above, Material.CABIN, color, top=(slant, 0.8), shift=shift * cabin),
    ]
    radius = 0.31 if kind != "van" else 0.35
    for along in (-0.31 * length, 0.32 * length):
        for side in (-1, 1):
            center = (along, side * (width / 2 - 0.1), radius)
            parts.append(rounded(center, (radius, 0.15, radius), Material.TIRE, (0.02,) * 3))
    return Thing(parts, x, y, yaw, velocity, contact=(length / 2, width / 2))


def truck(rng: np.random.Generator, x: float, y: float, yaw: float, velocity: float = 0.0) -> Thing:
    """Return a truck: a cab, a load of another color, and wheels."""
    length, width, height = rng.uniform(7, 13), 2.5, rng.uniform(2.9, 3.9)
    cab, load, deck = 2.1, pick(rng, TRUCK_COLORS), 1.05
    paint, hold = pick(rng, TRUCK_COLORS), length - cab - 0.5
    front = length / 2 - cab / 2
    parts = [
        block((front, 0, 0.9), (cab, width, 1.0), Material.BODY, paint),
        block((front, 0, 2.1), (cab, width, 1.4), Material.CABIN, paint, top=(0.85, 0.9)),
        block((-cab / 2, 0, 0.85), (length - cab, 1.0, 0.35), Material.TIRE, (0.03,) * 3),
    ]
    middle = -length / 2 + hold / 2
    if rng.random() < 0.3:  # a tank
        radius = (height - deck) / 2
        tank = rounded((middle, 0, deck + radius), (hold / 2, 1.25, radius), Material.BODY, load)
        parts.append(tank)
    else:
        size = (hold, width, height - deck)
        parts.append(block((middle, 0, (height + deck) / 2), size, Material.CLOTH, load))
    parts.append(block((-length / 2, 0, 0.75), (0.15, width, 0.3), Material.BODY, (0.05,) * 3))
    for along in (-0.4 * length, -0.4 * length + 1.3, front):
        for side in (-1, 1):
            wheel = ((along, side * 1.05, 0.5), (0.5, 0.2, 0.5))
            parts.append(rounded(*wheel, Material.TIRE, (0.02,) * 3))
    return Thing(parts, x, y, yaw, velocity, contact=(length / 2, width / 2))


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
SNOW = np.array((0.75, 0.77, 0.8))


def house(
    rng: np.random.Generator, x: float, y: float, length: float, height: float, snow: float = 0.0
) -> Thing:
    """Return a building along the street with a pitched or a flat roof.

    `x` is its middle along the road, `y` its street-side wall; `snow` the share on the roof.
    """
    wall = WALLS[rng.integers(len(WALLS))] * rng.uniform(0.4, 0.85)
    roof = ROOFS[rng.integers(len(ROOFS))] * rng.uniform(0.8, 1.3)
    roof = roof + snow * (SNOW - roof)
    depth = rng.uniform(8, 12)
    parts: list[Part] = [
        block((0, 0, height / 2), (length, depth, height), Material.FACADE, tuple(wall))
    ]
    if rng.random() < 0.75:
        rise = rng.uniform(2.2, 4.2)
        top = (1.0, 0.0) if rng.random() < 0.65 or length > 14 else (0.0, 1.0)
        size = (length + 0.6, depth + 0.8, rise)
        parts.append(block((0, 0, height + rise / 2), size, Material.ROOF, tuple(roof), top=top))
        if rng.random() < 0.6:
            chimney = (rng.uniform(-0.3, 0.3) * length, 0.15 * depth, height + rise * 0.8)
            parts.append(block(chimney, (0.7, 0.7, 1.8), Material.ROOF, (0.3, 0.16, 0.12)))
    else:
        size = (length + 0.3, depth + 0.3, 0.5)
        parts.append(block((0, 0, height + 0.2), size, Material.ROOF, (0.4, 0.39, 0.37)))
    return Thing(parts, x, y + np.sign(y) * depth / 2)


def bank(x: float, y: float, length: float, width: float, height: float, color) -> Thing:
    """Return a piece of a grassy bank along the road; `y` is its middle."""
    size = (length, width, height)
    return Thing([block((0, 0, height / 2), size, Material.GRASS, tuple(color), (1, 0.1))], x, y)


def barrier(x: float, y: float, length: float, height: float, color) -> Thing:
    """Return a piece of a wall along the road, such as one against noise or between the ways."""
    size = (length, 0.15 + 0.3 / height, height)
    return Thing([block((0, 0, height / 2), size, Material.CONCRETE, tuple(color), (1, 0.6))], x, y)


def overpass(rng: np.random.Generator, x: float, half: float) -> Thing:
    """Return a bridge across the road, on pillars at `half` meters from its middle."""
    deck, wide, gray = rng.uniform(4.8, 6.2), rng.uniform(7, 13), (0.38, 0.37, 0.35)
    parts = [block((0, 0, deck + 0.6), (wide, 120, 1.2), Material.CONCRETE, gray)]
    for edge in (-wide / 2, wide / 2):
        parts.append(block((edge, 0, deck + 1.7), (0.1, 120, 0.9), Material.METAL, gray))
    for y in (-half - 14, -half, half, half + 14):
        for along in (-0.3 * wide, 0.3 * wide):
            pillar = ((along, y, 0, deck + 0.1), (0.45, 0.45))
            parts.append(rounded(*pillar, Material.CONCRETE, gray))
    return Thing(parts, x, 0.0, rng.uniform(-0.25, 0.25))


CLOTH_COLORS = np.array(
    [
        (0.05, 0.06, 0.12),
        (0.35, 0.06, 0.06),
        (0.55, 0.50, 0.42),
        (0.10, 0.22, 0.38),
        (0.62, 0.62, 0.60),
        (0.16, 0.15, 0.14),
        (0.55, 0.38, 0.08),
    ]
)


def person(rng: np.random.Generator, x: float, y: float, velocity: float) -> Thing:
    """Return somebody who walks along the street."""
    height = rng.uniform(1.55, 1.9)
    coat, legs = pick(rng, CLOTH_COLORS), pick(rng, CLOTH_COLORS[:4])
    skin = tuple(np.array((0.52, 0.34, 0.26)) * rng.uniform(0.5, 1.15))
    stride, cloth = rng.uniform(0.05, 0.2), Material.CLOTH
    parts = [  # legs, body, arms, head, hair; heights relative to the person's
        rounded(np.array((ahead, aside, up * height)), (deep, wide, high * height), cloth, color)
        for ahead, aside, up, deep, wide, high, color in (
            (stride, 0.09, 0.25, 0.09, 0.09, 0.27, legs),
            (-stride, -0.09, 0.25, 0.09, 0.09, 0.27, legs),
            (0.0, 0.0, 0.67, 0.15, 0.23, 0.2, coat),
            (0.05, 0.25, 0.62, 0.07, 0.06, 0.18, coat),
            (-0.05, -0.25, 0.62, 0.07, 0.06, 0.18, coat),
            (0.0, 0.0, 0.935, 0.095, 0.085, 0.07, skin),
            (-0.02, 0.0, 0.965, 0.1, 0.095, 0.05, legs),
        )
    ]
    return Thing(parts, x, y, 0.0, velocity, contact=(0.2, 0.25))


def tree(rng: np.random.Generator, x: float, y: float, palette: Palette, tall: bool) -> Thing:
    """Return a tree with a trunk and a few ragged crowns in the season's colors."""
    height = rng.uniform(8, 15) if tall else rng.uniform(4.5, 8)
    trunk, spread = height * rng.uniform(0.28, 0.4), height * rng.uniform(0.19, 0.26)
    bark = tuple(np.array((0.11, 0.085, 0.06)) * rng.uniform(0.7, 1.6))
    girth = 0.02 * height + 0.03
    parts = [rounded((0, 0, 0, trunk + 1.2), (girth, girth), Material.BARK, bark)]
    for _ in range(rng.integers(4, 7)):
        shade = tuple(palette.leaf * rng.uniform(0.65, 1.25))
        dx, dy = rng.normal(0, 0.5 * spread, 2)
        z = rng.uniform(trunk + 0.5 * spread, height - 0.7 * spread)
        radii = spread * rng.uniform((0.75, 0.75, 0.7), (1.15, 1.15, 1.2))
        parts.append(rounded((dx, dy, z), radii, Material.LEAF, shade, palette.sparse))
    return Thing(parts, x, y, contact=(0.5, 0.5))


def hedge(rng: np.random.Generator, x: float, y: float, length: float, palette: Palette) -> Thing:
    """Return a clipped hedge along the street."""
    height = rng.uniform(0.9, 1.7)
    size = (length, 0.8, height)
    color = tuple(palette.leaf * rng.uniform(0.6, 0.9))
    return Thing([block((0, 0, height / 2), size, Material.LEAF, color, top=(1, 0.8))], x, y)


def bush(rng: np.random.Generator, x: float, y: float, palette: Palette) -> Thing:
    """Return a round shrub."""
    radius = rng.uniform(0.5, 1.1)
    color, radii = tuple(palette.leaf * rng.uniform(0.6, 1.1)), (radius, radius, 0.9 * radius)
    openness = min(palette.sparse, 1.6)  # bare twigs are dense near the ground
    return Thing([rounded((0, 0, 0.7 * radius), radii, Material.LEAF, color, openness)], x, y)


def lamp(x: float, y: float, height: float) -> Thing:
    """Return a street lamp that reaches over the road."""
    gray, reach = (0.22, 0.23, 0.24), -np.sign(y) * 1.4
    parts = [
        rounded((0, 0, 0, height), (0.07, 0.07), Material.METAL, gray),
        block((0, reach / 2, height), (0.07, abs(reach), 0.07), Material.METAL, gray),
        block((0, reach, height - 0.06), (0.22, 0.5, 0.12), Material.METAL, (0.5, 0.5, 0.48)),
    ]
    return Thing(parts, x, y)


def sign(rng: np.random.Generator, x: float, y: float) -> Thing:
    """Return a traffic sign: a disk or a plate on a pole."""
    colors = np.array([(0.55, 0.04, 0.04), (0.05, 0.12, 0.5), (0.7, 0.5, 0.05), (0.75, 0.75, 0.75)])
    color = pick(rng, colors)
    parts = [rounded((0, 0, 0, 2.6), (0.035, 0.035), Material.METAL, (0.35, 0.35, 0.35))]
    if rng.random() < 0.5:
        parts.append(rounded((-0.04, 0, 2.35), (0.02, 0.32, 0.32), Material.METAL, color))
        face = rounded((-0.05, 0, 2.35), (0.02, 0.22, 0.22), Material.METAL, (0.8, 0.8, 0.8))
        parts.append(face)
    else:
        parts.append(block((-0.05, 0, 2.3), (0.03, 0.6, 0.6), Material.METAL, color))
    return Thing(parts, x, y)


def rail(x: float, y: float, length: float) -> Thing:
    """Return a guard rail along the road, with its posts."""
    gray = (0.42, 0.43, 0.44)
    parts = [block((0, 0, 0.6), (length, 0.06, 0.3), Material.METAL, gray)]
    for post in np.arange(-length / 2 + 1, length / 2, 4):
        parts.append(block((post, np.sign(y) * 0.08, 0.35), (0.1, 0.1, 0.7), Material.METAL, gray))
    return Thing(parts, x, y)
