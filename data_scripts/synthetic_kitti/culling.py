"""Culling: sort out which parts a tile of neighboring rays may meet at all."""

import numpy as np

from synthetic_kitti.solids import World
from synthetic_kitti.vectors import dot, turned


def candidates(origin, rays, world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of a part and a tile that may meet, near ones first.

    Args:
        origin: Start of the rays, [3].
        rays: Directions, [3, rays of a tile, tiles].
        world: What there is to hit.

    Returns:
        Part numbers, tiles, and the distances before which they cannot meet.
    """
    axis = rays.sum(axis=1)
    axis /= np.maximum(np.sqrt(dot(axis, axis)), np.float32(1e-12))
    spread = np.arccos(np.clip(dot(axis[:, None], rays).min(axis=0), -1, 1))
    spread += np.float32(2e-3)  # a margin for rounding
    cos_spread, sin_spread = np.cos(spread), np.sin(spread)
    wide = spread > 1.5  # then neither test below holds
    # Cone around a tile's rays against cone around a thing.
    middle, half = world.hull[:3] - origin[:, None], world.hull[3:6]
    length = np.maximum(np.sqrt(dot(middle, middle)), np.float32(1e-6))
    sine = np.minimum(np.sqrt(dot(half, half)) / length, 1)
    cosine = np.where(sine < 1, np.sqrt(1 - sine * sine), np.float32(-9))
    toward = middle / length
    # All tiles together first: most things are outside of a camera's view.
    whole = axis.sum(axis=1) / max(np.linalg.norm(axis.sum(axis=1)), 1e-6)
    around = np.arccos(np.clip(dot(whole, axis), -1, 1)).max() + spread.max()
    angle = np.arccos(np.clip(dot(whole, toward), -1, 1))
    seen = np.flatnonzero(
        (angle <= around + np.arcsin(np.minimum(sine, 1)) + 1e-3) | (sine >= 1) | wide.any()
    )
    toward, cosine, sine = toward[:, seen, None], cosine[seen, None], sine[seen, None]
    reach = cosine * cos_spread - sine * sin_spread
    thing, tile = np.nonzero((dot(toward, axis[:, None]) >= reach) | wide)
    thing = seen[thing]
    # Tile's middle against the thing's bounding box, then against those of its parts.
    beam = (origin, axis, sin_spread, wide)
    kept, _ = _enter_boxes(*beam, world.hull, thing, tile)
    thing, tile = thing[kept], tile[kept]
    count = world.count[thing]
    tile = tile.repeat(count)
    part = np.arange(len(tile)) + (world.first[thing] - np.cumsum(count) + count).repeat(count)
    kept, enter = _enter_boxes(*beam, world.boxes, part, tile)
    order = np.argsort(enter, kind="stable")
    kept = kept[order]
    return part[kept], tile[kept], enter[order]


def _enter_boxes(origin, axis, sin_spread, wide, boxes, number, tile):
    """Sort out the pairs of a box and a tile that may meet.

    The rays of a tile stay within its spread of its axis, so a box that one of them meets is met
    by the axis too once it is widened by the spread where the box is farthest.

    Args:
        origin: Start of the rays, [3].
        axis: Middles of the tiles, [3, tiles].
        sin_spread: Sines of their spreads, [tiles].
        wide: Tiles that are too wide for this and meet everything, [tiles].
        boxes: Center, half extents, cosine and sine of yaw, [8, boxes].
        number: Boxes of the pairs, [pairs].
        tile: Tiles of the pairs, [pairs].

    Returns:
        Places of the pairs that are left, and for each the distance before which it cannot meet.
    """
    middle, halves, turn = boxes[:3], boxes[3:6], boxes[6:]
    offset = origin[:, None] - middle
    far = np.sqrt(dot(offset, offset)) + np.sqrt(dot(halves, halves))
    margin = far[number] * sin_spread[tile]
    enter, leave = np.float32(0), np.float32(np.inf)
    steps = turned(axis.take(tile, axis=1), turn.take(number, axis=1))
    for start, step, half in zip(turned(offset, turn), steps, halves, strict=True):
        step = np.where(np.abs(step) < 1e-6, np.float32(1e-6), step)
        nearest, thick = -start[number] / step, (half[number] + margin) / np.abs(step)
        enter, leave = np.maximum(enter, nearest - thick), np.minimum(leave, nearest + thick)
    wide = wide[tile]
    kept = np.flatnonzero((enter <= leave) | wide)
    return kept, np.where(wide[kept], 0, enter[kept])
