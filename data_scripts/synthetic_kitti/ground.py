"""The ground: asphalt, road marks, snow, and what lies beside the road."""

import numpy as np

from synthetic_kitti.noise import band, chance, fractal_noise
from synthetic_kitti.street import Street


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """Return a color as a column, [3, 1] float32."""
    return np.array([[red], [green], [blue]], np.float32)


def mix(a, b, share) -> np.ndarray:
    """Blend from `a` to `b`."""
    return a + (b - a) * share


PAINT, SNOW = rgb(0.75, 0.75, 0.72), rgb(0.78, 0.8, 0.84)


def paint_ground(points, footprint, street: Street):
    """Paint asphalt, marks, snow and what lies beside the road.

    Args:
        points: World positions, [3, n].
        footprint: Width of the patch each point stands for, [n] meters.
        street: The layout.

    Returns:
        Albedo [3, n] and gloss [n].
    """
    x, y, _ = points
    y, far = y - street.curve.at(x), footprint
    across = np.abs(y)
    patches, fine = fractal_noise(x, y, 0.12, far), fractal_noise(y, x, 0.015, far)
    # The road was mended here and there, half a lane wide.
    luck = chance(np.floor(x / 3.7), np.floor(y * (2 / street.lane)))
    mended = np.where(luck < 0.1, 0.55, np.where(luck > 0.92, 1.3, 1)).astype(np.float32)
    asphalt = street.asphalt * mended * np.clip(1 + 0.22 * patches + 0.22 * fine, 0.3, 2)
    wheel = band(np.abs(across % street.lane - street.lane / 2), 0.55, 1.0, 0.25)
    asphalt = asphalt * (1 - 0.12 * wheel) * rgb(1, 1, 1.03)
    side_street = np.zeros_like(x)
    for at in street.crossings:
        side_street += band(x, at - street.CROSSING, at + street.CROSSING, far)
    marks, dashes = np.zeros_like(x), band(x % 9, 0, 4.5, far)
    if street.center_line and street.lanes == 1:
        marks += band(across, -0.07, 0.07, far) * dashes
    elif street.center_line:
        marks += band(across, 0.1, 0.25, far)
        for lane in range(1, street.lanes):
            marks += (
                band(across, lane * street.lane - 0.07, lane * street.lane + 0.07, far) * dashes
            )
    if street.edge_lines:
        marks += band(across, street.edge - 0.25, street.edge - 0.1, far)
    marks *= 1 - np.clip(side_street, 0, 1)
    for at in street.crossings:  # zebra stripes before the side street
        zone = band(x, at - street.CROSSING - 5.5, at - street.CROSSING - 2.5, far)
        marks += zone * band(y % 1.0, 0.25, 0.75, far) * (across < street.curb - 0.2)
    worn = np.clip(0.85 + 0.2 * patches, 0, 1)
    road = mix(asphalt, PAINT * 0.85, np.clip(marks, 0, 1) * worn)
    if street.snow:
        slush = street.snow * np.clip(0.75 + 0.3 * patches - 0.75 * wheel, 0, 1)
        road = mix(road, SNOW, slush * band(across, -1, street.edge, 1.0) * 0.6)
    on_road = np.clip(band(across, -1, street.curb + 0.1, far) + side_street, 0, 1)
    verge = rgb(*street.verge_color) * tufts(x, y, far)
    wet = street.wet * on_road * np.clip(0.75 + 0.25 * patches, 0, 1)
    return mix(verge, road, on_road), np.float32(0.04) * wet


def tufts(x, y, footprint) -> np.ndarray:
    """Return the mottle of grass and rough ground."""
    coarse, fine = fractal_noise(y, x, 0.4, footprint), fractal_noise(x, y, 0.05, footprint)
    return np.clip(1 + 0.35 * fine + 0.25 * coarse, 0.25, 2.2)
