"""What stands and walks in a street: functions from a few numbers to a thing."""

import numpy as np

from synthetic_kitti.domain import Palette
from synthetic_kitti.solids import Material, Thing, block, rounded
from synthetic_kitti.vehicles import pick

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
