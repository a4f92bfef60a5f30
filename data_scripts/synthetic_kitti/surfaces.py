"""Albedo and gloss of every point of a street, smoothed over the patch that a ray stands for."""

import numpy as np

from synthetic_kitti.noise import band, chance, fractal_noise
from synthetic_kitti.raycast import GROUND
from synthetic_kitti.solids import Material, World
from synthetic_kitti.street import Street
from synthetic_kitti.vectors import turned


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """Return a color as a column, [3, 1] float32."""
    return np.array([[red], [green], [blue]], np.float32)


def mix(a, b, share) -> np.ndarray:
    """Blend from `a` to `b`."""
    return a + (b - a) * share


PAINT, SNOW = rgb(0.75, 0.75, 0.72), rgb(0.78, 0.8, 0.84)


def paint_ground(points, footprint, street: Street):
    """Paint asphalt, marks, snow and what lies beside the road, as `surface` does."""
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


GLASS = rgb(0.02, 0.026, 0.032)
GLOSS = {Material.BODY: 0.05, Material.CABIN: 0.05, Material.METAL: 0.03}
"""Share of light that is mirrored straight on; it grows toward grazing angles."""


def surface(points, normals, part, footprint, world: World, street: Street):
    """Paint points that lie on surfaces.

    Points and unit normals are [3, n]; `part` [n] has rows of the world's tables, none of them the
    sky; `footprint` [n] is the width of the patch each point stands for. Returns albedo [3, n] in
    [0, 1], and gloss [n]: the mirrored share of light at normal incidence.
    """
    # Sorted by material, each kind is one slice: views instead of copies.
    material = world.material.take(part)
    order = np.argsort(material, kind="stable")
    points, normals = points.take(order, axis=1), normals.take(order, axis=1)
    footprint, part = footprint[order], part[order]
    albedo = world.color.T.take(part, axis=1)
    gloss = np.zeros(len(part), np.float32)
    ends = np.cumsum(np.bincount(material, minlength=len(Material)))
    for kind, paint in PAINTERS.items():
        rows = slice(ends[kind - 1] if kind else 0, ends[kind])
        if rows.start == rows.stop:
            continue
        at, normal, color = points[:, rows], normals[:, rows], albedo[:, rows]
        foot, glossy = footprint[rows], GLOSS.get(kind, 0.0)
        if kind == Material.GROUND:
            albedo[:, rows], gloss[rows] = paint_ground(at, foot, street)
        elif paint is None:
            albedo[:, rows] = color * (1 + 0.1 * _grain(at, normal, foot, 0.03))
            gloss[rows] = glossy
        else:
            x, y, *turn = world.frame.T.take(part[rows], axis=1)
            local = turned((at[0] - x, at[1] - y, at[2]), turn)
            normal, seed = turned(normal, turn), world.owner[part[rows]]
            albedo[:, rows], gloss[rows] = paint(local, normal, foot, color, glossy, seed)
    unsorted = np.empty_like(order)
    unsorted[order] = np.arange(len(order))
    albedo, gloss = albedo.take(unsorted, axis=1), gloss[unsorted]
    return np.clip(albedo, 0.005, 0.95), gloss


def _grain(points, normals, footprint, texel) -> np.ndarray:
    """Sample noise in the coordinate plane that the surface faces most."""
    x, y, z = points
    ahead, aside, up = (np.abs(component) for component in normals)
    steep = up < 0.7
    return fractal_noise(
        np.where(steep & (ahead > aside), y, x), np.where(steep, z, y), texel, footprint
    )


def _grass(local, normal, footprint, color, gloss, seed):
    """Cover banks with grass."""
    return color * tufts(local[0], 1.2 * local[1], footprint), gloss


def _sidewalk(local, normal, footprint, color, gloss, seed):
    """Lay slabs, with a brighter curb stone at the edge."""
    x, y, _ = local
    joints = np.maximum(band(x % 1.0, 0, 0.04, footprint), band(y % 0.8, 0, 0.04, footprint))
    tone = 1 + 0.12 * fractal_noise(x, y, 0.05, footprint) - 0.35 * joints
    return color * np.where(normal[2] > 0.5, tone, np.float32(1.35)), gloss


def _facade(local, normal, footprint, color, gloss, seed):
    """Put rows of windows, and here and there a door, into plaster or brick."""
    z = local[2]
    along = np.where(np.abs(normal[0]) > np.abs(normal[1]), local[1], local[0])
    spacing = 2.1 + 1.3 * chance(seed)
    wide = 0.16 + 0.16 * chance(seed + 1000)
    cell, floor = np.floor(along / spacing), np.floor(z / 3.0)
    u, v, far_u, far_v = along / spacing - cell, z / 3.0 - floor, footprint / spacing, footprint / 3
    luck = chance(cell, floor, seed)
    door = (floor == 0) & (luck < 0.25)
    sill = np.where(door, -1.0, np.where(floor == 0, 0.3, 0.28))
    pane = band(u, 0.5 - wide, 0.5 + wide, far_u) * band(v, sill, 0.8, far_v)
    frame = band(u, 0.44 - wide, 0.56 + wide, far_u) * band(v, sill - 0.05, 0.84, far_v)
    mullion = band(np.abs(u - 0.5), -0.015, 0.015, far_u)
    bricks = np.maximum(band(z % 0.25, 0, 0.03, footprint), band(along % 0.5, 0, 0.03, footprint))
    is_brick = color[0] > 2 * color[2]
    stain = 1 + 0.14 * _grain(local, normal, footprint, 0.06) - 0.3 * np.exp(-2 * z)
    plaster = color * (stain - 0.3 * bricks * is_brick)
    plaster = mix(plaster, plaster * 0.7, band(v, 0.0, 0.03, far_v) * (floor > 0))
    curtain = 0.35 * np.clip(luck * 3 - 2, 0, 1)
    glass = np.where(door, color * rgb(0.35, 0.25, 0.2), GLASS + curtain * PAINT)
    painted = mix(mix(plaster, PAINT, frame), glass, pane * (1 - mullion))
    return painted, gloss + np.where(door, 0, 0.12 * pane)


def _roof(local, normal, footprint, color, gloss, seed):
    """Shade rows of tiles."""
    rows = band(local[2] % 0.3, 0, 0.06, footprint)
    tone = 1 - 0.35 * rows + 0.12 * _grain(local, normal, footprint, 0.06)
    return color * tone, gloss


def _body(local, normal, footprint, color, gloss, seed):
    """Add lights, plates, a bumper and door gaps to car paint."""
    x, y, z = local
    across = np.abs(y)
    rear, front = normal[0] < -0.7, normal[0] > 0.7
    lamps = band(across, 0.52, 0.82, footprint) * band(z, 0.62, 0.82, footprint)
    color = mix(color, rgb(0.55, 0.02, 0.02), lamps * rear)
    color = mix(color, rgb(0.9, 0.9, 0.85), lamps * front)
    plate = band(across, -0.26, 0.26, footprint) * band(z, 0.48, 0.6, footprint)
    color = mix(color, PAINT, plate * (rear | front))
    grille = band(across, -0.5, 0.5, footprint) * band(z, 0.64, 0.76, footprint)
    trim = np.maximum(grille * front, band(z, 0.0, 0.34, footprint))
    gap = band(np.abs(x % 1.1 - 0.55), -0.012, 0.012, footprint) * (np.abs(normal[1]) > 0.7)
    gap *= np.abs(x) < 1.2
    return mix(color, GLASS, np.clip(trim + gap, 0, 1) * 0.85), gloss


def _cabin(local, normal, footprint, color, gloss, seed):
    """Keep the roof and the pillars painted; the rest is glass."""
    x, _, _ = local
    sideways = np.abs(normal[1]) > 0.7
    pillar = band(np.abs(x % 1.1 - 0.55), -0.05, 0.05, footprint) * sideways
    glass = (normal[2] < 0.9) * (1 - pillar)
    return mix(color, GLASS, glass), gloss + 0.1 * glass


def _leaf(local, normal, footprint, color, gloss, seed):
    """Mottle foliage at two scales."""
    local = [component + seed.astype(np.float32) for component in local]
    coarse, fine = (_grain(local, normal, footprint, s) for s in (0.11, 0.02))
    clumps = np.exp(0.6 * coarse + 0.5 * fine)
    return color * np.minimum(clumps, 3), gloss


def _bark(local, normal, footprint, color, gloss, seed):
    """Stripe trunks along the grain."""
    x, y, z = local
    stripes = np.sin(90 * np.arctan2(y, x) / 4 + 2 * np.sin(7 * z)) * (footprint < 0.03)
    tone = 1 + 0.2 * stripes + 0.15 * _grain(local, normal, footprint, 0.03)
    return color * tone, gloss


PAINTERS = {kind: None for kind in Material} | {
    Material.SIDEWALK: _sidewalk,
    Material.FACADE: _facade,
    Material.ROOF: _roof,
    Material.BODY: _body,
    Material.CABIN: _cabin,
    Material.LEAF: _leaf,
    Material.BARK: _bark,
    Material.GRASS: _grass,
}
assert GROUND == Material.GROUND
