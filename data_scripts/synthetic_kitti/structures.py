"""Structures beside and above a street: houses, walls, banks and bridges."""

import numpy as np

from synthetic_kitti.solids import Material, Part, Thing, block, rounded

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

    Args:
        rng: Source of colors, depth and roof shape.
        x: Middle along the road.
        y: Street-side wall; its sign says which side.
        length: Extent along the road.
        height: Height of the walls.
        snow: Share of snow on the roof.
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
