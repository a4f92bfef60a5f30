"""Vehicles: cars, vans and trucks."""

import numpy as np

from synthetic_kitti.solids import Material, Thing, block, rounded

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
    parts = [
        block((0, 0, (sill + 0.62) / 2), (length, width, 0.62 - sill), Material.BODY, color),
        block(
            (0, 0, (0.62 + waist) / 2),
            (length, width, waist - 0.62),
            Material.BODY,
            color,
            top=(0.95, 0.93),
        ),
        block(
            (middle, 0, (waist + roof) / 2),
            (cabin, width * 0.92, roof - waist),
            Material.CABIN,
            color,
            top=(slant, 0.8),
            shift=shift * cabin,
        ),
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
