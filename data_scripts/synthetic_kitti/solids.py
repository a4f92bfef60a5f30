"""The shapes that a synthetic street is made of.

The world is a ground plane z = 0 and things (a car, a tree, a house). A thing is a rigid group of
parts, and a part is one of two shapes: a *block*, the intersection of six half-spaces, or a
*round*, an ellipsoid or an upright elliptic cylinder. Axes: x forward, y left, z up; meters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np

from synthetic_kitti.street import Curve


class Material(IntEnum):
    """What a part is made of; `surfaces.surface` paints each kind."""

    GROUND = 0
    SIDEWALK = 1
    FACADE = 2
    ROOF = 3
    BODY = 4
    CABIN = 5
    TIRE = 6
    LEAF = 7
    BARK = 8
    METAL = 9
    CLOTH = 10
    GRASS = 11
    CONCRETE = 12


class Part(NamedTuple):
    """One shape in its thing's own frame; built by `block` and `rounded`."""

    material: int
    color: tuple[float, float, float]
    planes: np.ndarray | None  # [6, 4] outward normals, offsets: inside n . p <= offset; or a round
    unit: np.ndarray | None  # [3, 3] takes the round, centered, to the unit sphere; or a block
    center: np.ndarray
    half: np.ndarray  # [3] half extents of the bounding box about `center`
    porous: float = 0.0


def block(center, size, material, color, top=(1.0, 1.0), shift=0.0) -> Part:
    """Return a box whose top may be smaller than its bottom.

    `size` is its length and width at the bottom and its height; `top` scales the top face along x
    and y, (1, 0) is a gable roof with its ridge along x; `shift` moves it along x.
    """
    center, (length, width, height) = np.asarray(center, float), size
    planes = [(0, 0, 1, height / 2), (0, 0, -1, height / 2)]
    for axis, extent, ratio in ((0, length, top[0]), (1, width, top[1])):
        for sign in (1.0, -1.0):
            low = sign * extent / 2
            lean = sign * extent * ratio / 2 + (shift if axis == 0 else 0.0) - low
            normal = np.zeros(3)
            normal[axis], normal[2] = sign * height, -sign * lean
            normal /= np.linalg.norm(normal)
            planes.append((*normal, normal[axis] * low - normal[2] * height / 2))
    planes = np.array(planes)
    planes[:, 3] += planes[:, :3] @ center
    half = np.array([length / 2 + abs(shift), width / 2, height / 2])
    return Part(material, color, planes, None, center, half)


def rounded(center, radii, material, color, porous=0.0) -> Part:
    """Return an ellipsoid, or with `radii` (rx, ry) at `center` (x, y, low, high) a cylinder.

    `porous` is how open it is to rays, through ragged holes near the outline: 0 is solid, 0.9 a
    crown full of leaves, 3 bare twigs.
    """
    if len(radii) == 2:
        x, y, low, high = center
        half = np.array([*radii, (high - low) / 2])
        unit = np.diag([1 / radii[0], 1 / radii[1], 0.0])
        return Part(material, color, None, unit, np.array([x, y, (low + high) / 2]), half, porous)
    unit = np.diag(1 / np.asarray(radii, float))
    return Part(material, color, None, unit, np.array(center, float), np.array(radii), porous)


class Thing:
    """Parts placed in the world; `velocity` is along x, meters per second.

    Shapes are in the thing's frame, whose origin stands on the ground, y meters left of the road's
    middle. `contact` is half length and half width of the dark patch below it.
    """

    def __init__(self, parts: Sequence[Part], x, y, yaw=0.0, velocity=0.0, contact=None):
        self.parts = tuple(parts)
        self.x, self.y, self.yaw, self.velocity, self.contact = x, y, yaw, velocity, contact

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounding boxes of the thing and its parts, planes and units, all in the world."""
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
        shift = np.array([self.x, self.y, 0.0])
        boxes = np.array([(part.center, part.half) for part in self.parts])
        low, high = (boxes[:, 0] - boxes[:, 1]).min(axis=0), (boxes[:, 0] + boxes[:, 1]).max(axis=0)
        boxes = np.concatenate([[((low + high) / 2, (high - low) / 2)], boxes])
        boxes[:, 0] = boxes[:, 0] @ turn.T + shift
        heading = np.tile(turn[:2, 0], (len(boxes), 1))
        boxes = np.concatenate([boxes.reshape(-1, 6), heading], axis=1)
        planes = np.array([p.planes for p in self.parts if p.planes is not None]).reshape(-1, 6, 4)
        normals = planes[..., :3] @ turn.T
        offsets = planes[..., 3:] + (normals @ shift)[..., None]
        units = [p.unit @ turn.T for p in self.parts if p.unit is not None]
        return (
            boxes,
            np.concatenate([normals, offsets], axis=-1),
            np.array(units).reshape(-1, 3, 3),
        )

    def placed(self, curve: Curve, seconds: float = 0.0) -> "Thing":
        """Return the thing where it is after some seconds on a street bent by `curve`."""
        x = self.x + self.velocity * seconds
        yaw = self.yaw + np.arctan(curve.slope(x))
        return Thing(self.parts, x, self.y + curve.at(x), yaw, self.velocity, self.contact)


@dataclass(frozen=True, eq=False)
class World:
    """Things, and tables of them and of their parts; row 0 of a table of parts is the ground.

    Of things: `first` row and `count` of the parts, and `hull`, the bounding box. Of parts: `owner`
    is the thing (from 1), `frame` its x, y, cosine and sine of yaw, `boxes` the bounding box. Boxes
    are turned like the thing: center, half extents, cosine and sine of yaw, [8, n].
    """

    things: tuple[Thing, ...]
    first: np.ndarray
    count: np.ndarray
    hull: np.ndarray
    owner: np.ndarray
    frame: np.ndarray
    material: np.ndarray
    color: np.ndarray
    is_block: np.ndarray
    porous: np.ndarray
    planes: np.ndarray
    units: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, things: Sequence[Thing]) -> "World":
        """Gather the tables of the given things."""
        parts = [part for thing in things for part in thing.parts]
        count = np.array([len(thing.parts) for thing in things], int)
        is_block = np.array([False] + [part.planes is not None for part in parts])
        is_round = ~is_block
        is_round[0] = False
        planes = np.zeros((len(is_block), 6, 4), np.float32)
        units = np.zeros((len(is_block), 3, 3), np.float32)
        tables = [thing.tables for thing in things]
        planes[is_block] = np.concatenate([planes[:0]] + [table[1] for table in tables])
        units[is_round] = np.concatenate([units[:0]] + [table[2] for table in tables])
        owner = np.repeat(np.arange(len(things) + 1), [1, *count])
        frames = [(0, 0, 1, 0)] + [(t.x, t.y, np.cos(t.yaw), np.sin(t.yaw)) for t in things]
        boxes = np.concatenate([np.zeros((1, 8))] + [table[0][1:] for table in tables])
        return cls(
            tuple(things),
            first=1 + np.cumsum(count) - count,
            count=count,
            hull=np.array([table[0][0] for table in tables], np.float32).reshape(-1, 8).T.copy(),
            owner=owner,
            frame=np.array(frames, np.float32)[owner],
            material=np.array([0] + [part.material for part in parts], np.int8),
            color=np.array([(0, 0, 0)] + [part.color for part in parts], np.float32),
            is_block=is_block,
            porous=np.array([0.0] + [part.porous for part in parts], np.float32),
            planes=np.ascontiguousarray(np.moveaxis(planes, 0, -1)),
            units=np.ascontiguousarray(np.moveaxis(units, 0, -1)),
            boxes=boxes.T.astype(np.float32, order="C"),
        )
