"""Rays against solids: one function that serves the cameras, the lidar and the sun alike."""

from typing import NamedTuple

import numpy as np

from synthetic_kitti.noise import fractal_noise
from synthetic_kitti.solids import World
from synthetic_kitti.vectors import dot, turned


def candidates(origin, rays, world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of a part and a tile that may meet, near ones first.

    Rays [3, rays of a tile, tiles] start at `origin` [3]. Returns part numbers, tiles, and the
    distances before which they cannot meet.
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

    Tiles have middles `axis` [3, tiles] and sines of their spreads [tiles]; those that are `wide`
    meet all. Boxes are [8, boxes]: center, half extents, cosine and sine of yaw; `number` and
    `tile` [pairs] name a box and a tile. Returns the places of the pairs that are left, and for
    each the distance before which it cannot meet.
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


SKY, GROUND = -1, 0  # part numbers of a ray that hits nothing and of one that hits the ground

TILE = 4  # side of the squares of neighboring rays that are culled together
BATCH, CHUNK = 1 << 15, 1 << 11
"""Rays, and pairs of a part and a tile, that are worked on at once; all fits into the caches."""


class Hits(NamedTuple):
    """What each ray meets first."""

    distance: np.ndarray  # [n] meters along the ray, inf where it meets nothing
    normal: np.ndarray  # [n, 3] outward unit normal, zero where it meets nothing
    part: np.ndarray  # [n] row of the world's tables; `SKY` or `GROUND`


def cast(origin: np.ndarray, directions: np.ndarray, world: World) -> Hits:
    """Find the first surface along every ray.

    `origin` [3] lies above the ground and outside every thing. Directions are unit vectors [n, 3];
    or faster, a grid of neighbors [h, w, 3], n = h * w. Hits are float32.
    """
    origin, directions = np.asarray(origin, np.float32), np.asarray(directions, np.float32)
    columns = directions.shape[-2]
    grid = np.moveaxis(directions.reshape(-1, columns, 3), -1, 0)
    step = max(1, BATCH // max(columns, 1) // TILE) * TILE
    batches = [
        _nearest(origin, grid[:, row : row + step], world) for row in range(0, grid.shape[1], step)
    ]
    distance, part = (np.concatenate(found) for found in zip(*batches, strict=True))
    normals = _normals(origin, grid.reshape(3, -1), distance, part, world)
    return Hits(distance, normals.T, part)


def _nearest(origin, grid, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Return distance and part number, [h * w] each, of the first hit along rays [3, h, w]."""
    _, height, width = grid.shape
    padded = np.pad(grid, ((0, 0), (0, -height % TILE), (0, -width % TILE)), mode="edge")
    rows, columns = padded.shape[1] // TILE, padded.shape[2] // TILE
    # [3, rays of a tile, tiles]: numpy is fast where the last axis is long.
    rays = padded.reshape(3, rows, TILE, columns, TILE).transpose(0, 2, 4, 1, 3)
    rays = rays.reshape(3, TILE * TILE, rows * columns)
    down = rays[2] < 0
    with np.errstate(divide="ignore"):
        distance = np.where(down, -origin[2] / rays[2], np.float32(np.inf))
    part = np.where(down, np.int32(GROUND), np.int32(SKY))
    parts, tiles, entry = candidates(origin, rays, world)
    for low in range(0, len(tiles), CHUNK):
        # Near parts come first: a part that begins behind all that its tile has met is hidden.
        now = slice(low, low + CHUNK)
        shown = low + np.flatnonzero(entry[now] < distance.max(axis=0)[tiles[now]])
        is_block = world.is_block[parts[shown]]
        for enter, chosen in ((_enter_blocks, shown[is_block]), (_enter_rounds, shown[~is_block])):
            number, tile = parts[chosen], tiles[chosen]
            found = enter(origin, rays.take(tile, axis=-1), number, world)
            ray, pair = np.nonzero(found < distance.take(tile, axis=-1))
            cell, found = (ray, tile[pair]), found[ray, pair]
            np.minimum.at(distance, cell, found)
            first = found == distance[cell]
            part[ray[first], tile[pair[first]]] = number[pair[first]]
    return tuple(
        found.reshape(TILE, TILE, rows, columns)
        .transpose(2, 0, 3, 1)
        .reshape(padded.shape[1:])[:height, :width]
        .ravel()
        for found in (distance, part)
    )


def _enter_blocks(origin, rays, number, world: World) -> np.ndarray:
    """Return distances [r, k] to blocks [k] along rays [3, r, k].

    A ray is inside after its last way in and before its first way out.
    """
    enter, leave = np.float32(-np.inf), np.float32(np.inf)
    planes = world.planes.take(number, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        for plane in planes:
            toward = dot(plane, rays) + np.float32(0)  # -0 of a parallel ray would turn its sign
            crossing = (plane[3] - dot(plane, origin)) / toward
            inward = toward < 0
            enter = np.maximum(enter, np.where(inward, crossing, np.float32(-np.inf)))
            leave = np.minimum(leave, np.where(inward, np.float32(np.inf), crossing))
    return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf))


def _enter_rounds(origin, rays, number, world: World) -> np.ndarray:
    """Return distances [r, k] to rounds [k] along rays [3, r, k], as if to the unit sphere."""
    units = world.units.take(number, axis=-1)
    offset = origin[:, None] - world.boxes[:3].take(number, axis=1)
    start, step = [dot(row, offset) for row in units], [dot(row, rays) for row in units]
    # The nearest approach comes first: unlike b^2 - 4ac this does not cancel far away.
    speed2 = np.maximum(dot(step, step), np.float32(1e-12))
    nearest = -dot(start, step) / speed2
    miss = [at + nearest * along for at, along in zip(start, step, strict=True)]
    inside2 = 1 - dot(miss, miss)
    distance = nearest - np.sqrt(np.maximum(inside2, 0) / speed2)
    hit = (inside2 > 0) & (distance > 0)
    # The ends of a cylinder are open.
    hit &= np.abs(offset[2] + distance * rays[2]) <= world.boxes[5, number]
    porous = world.porous[number]
    ray, pair = np.nonzero(hit & (porous > 0))
    points = origin[:, None] + distance[ray, pair] * rays[:, ray, pair]
    hit[ray, pair] = _is_leaf(points, inside2[ray, pair], porous[pair])
    return np.where(hit, distance, np.float32(np.inf))


def _is_leaf(points, depth2, porous) -> np.ndarray:
    """Open ragged holes in a crown, more of them toward its outline, where `depth2` is small."""
    x, y, z = points
    leaves = fractal_noise(x + 0.7 * y, 1.1 * z - 0.6 * y, texel=0.05)
    return leaves + 3.2 * np.sqrt(depth2) > porous


def _normals(origin, rays, distance, part, world: World) -> np.ndarray:
    """Return outward normals [3, n] of the surfaces hit by rays [3, n]; zero for the sky."""
    normals = np.zeros(rays.shape, np.float32)
    normals[2, part == GROUND] = 1
    things = np.flatnonzero(part > GROUND)
    is_block = world.is_block[part[things]]
    for kind in (True, False):
        rows = things[is_block == kind]
        number = part[rows]
        points = origin[:, None] + distance[rows] * rays.take(rows, axis=1)
        if kind:  # on the surface one plane is at zero, the others below
            planes = world.planes.take(number, axis=-1)
            face = np.array([dot(plane, points) - plane[3] for plane in planes]).argmax(axis=0)
            normals[:, rows] = planes[face, :3, np.arange(len(rows))].T
        else:
            units = world.units.take(number, axis=-1)
            points -= world.boxes[:3].take(number, axis=1)
            local = [dot(row, points) for row in units]
            outward = np.array([dot(column, local) for column in units.swapaxes(0, 1)])
            normals[:, rows] = outward / np.maximum(np.sqrt(dot(outward, outward)), 1e-12)
    return normals
