"""The layout of a street: how wide it is, how it bends and where side streets meet it."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from synthetic_kitti.domain import Palette


class Curve(NamedTuple):
    """The course of the road's middle, y = swing * sin(2 pi x / period + phase); meters.

    Streets are built straight along x and then sheared by the curve: x stays and y moves. At the
    slopes that occur, a road gets at most four percent narrower by that.
    """

    swing: float = 0.0
    period: float = 100.0
    phase: float = 0.0

    def at(self, x):
        """Return y of the road's middle at x; float32 for arrays of float32."""
        return self.swing * np.sin(x * (2 * np.pi / self.period) + self.phase)

    def slope(self, x: float) -> float:
        """Return dy/dx at x."""
        pace = 2 * np.pi / self.period
        return self.swing * pace * float(np.cos(x * pace + self.phase))

    @property
    def tightest(self) -> float:
        """Smallest radius in meters; the curvature of a gentle sine peaks at swing * pace^2."""
        return 1 / (self.swing * (2 * np.pi / self.period) ** 2)

    @classmethod
    def random(cls, rng: np.random.Generator, style: str) -> "Curve":
        """Draw a straight street, or bends no tighter than the style allows."""
        straight, tightest = {
            "city": (0.5, 140),
            "residential": (0.35, 90),
            "country": (0.2, 130),
            "highway": (0.3, 600),
        }[style]
        radius, slope = tightest * rng.uniform(1, 3), rng.uniform(0.08, 0.28)
        if rng.random() < straight:
            return cls()
        # The slope peaks at swing * pace, see `tightest`.
        pace = 1 / (radius * slope)
        return cls(slope / pace, 2 * np.pi / pace, rng.uniform(0, 2 * np.pi))


@dataclass(frozen=True)
class Street:
    """Layout of the flat surfaces; meters. The road's middle is at y = 0 before it is bent."""

    style: str  # city, residential, country or highway
    curve: Curve
    lanes: int  # number of lanes each way
    lane: float  # width of a lane
    strip: float  # width of the parking strip or hard shoulder; 0 where there is none
    sidewalk: float  # width of each sidewalk; 0 where there is none
    verge: float  # from the sidewalk to the houses
    crossings: tuple[float, ...]  # where side streets meet the road
    verge_color: tuple[float, float, float]
    asphalt: float  # albedo of the road
    edge_lines: bool
    center_line: bool
    snow: float  # share of snow, in [0, 1]
    wet: float  # how wet the road is, in [0, 1]

    CROSSING: ClassVar[float] = 4.0  # half width of a side street

    @property
    def edge(self) -> float:
        """Distance from the middle to the outer edge of the lanes."""
        return self.lanes * self.lane

    @property
    def curb(self) -> float:
        """Distance from the middle to the curb."""
        return self.edge + self.strip

    @property
    def front(self) -> float:
        """Distance from the middle to the house fronts."""
        return self.curb + self.sidewalk + self.verge

    def is_open(self, x: float, margin: float) -> bool:
        """Return whether x lies in the mouth of a side street."""
        return any(abs(x - at) < self.CROSSING + margin for at in self.crossings)

    def along(self, rng: np.random.Generator, start, stop, spacing, margin=2.5):
        """Yield irregular places x along the street, outside the side streets."""
        for x in np.arange(start + rng.uniform(0, spacing), stop, spacing):
            x = float(x + rng.uniform(-0.25, 0.25) * spacing)
            if not self.is_open(x, margin):
                yield x


def random_layout(
    rng: np.random.Generator, length: float, style: str, palette: Palette, wet: bool
) -> Street:
    """Draw the layout of a street of some length and style."""
    built, city, highway = style in ("city", "residential"), style == "city", style == "highway"
    paving = np.array((0.30, 0.29, 0.27)) * rng.uniform(0.7, 1.1)
    first = rng.uniform(10, 45)
    crossings = np.arange(first, length, rng.uniform(45, 70)) if built else ()
    lanes = rng.choice((2, 3)) if highway else 1 + (city and rng.random() < 0.65)
    strip = 2.5 if highway else 2.1 if built and rng.random() < 0.75 else 0.0
    verge = {"city": (0.2, 5), "residential": (2, 6), "country": (10, 26), "highway": (5, 20)}
    return Street(
        style=style,
        curve=Curve.random(rng, style),
        lanes=int(lanes),
        lane=rng.uniform(3.5, 3.75) if highway else rng.uniform(2.9, 3.6),
        strip=strip,
        sidewalk=rng.uniform(1.6, 3.5) if built else 0.0,
        verge=rng.uniform(*verge[style]),
        crossings=tuple(float(x) for x in crossings),
        verge_color=tuple(paving if city and palette.snow == 0 else palette.grass),
        asphalt=float(rng.uniform(0.12, 0.25)) * (0.55 if wet else 1.0),
        edge_lines=bool(not built or rng.random() < 0.3),
        center_line=bool(not built or lanes > 1 or rng.random() < 0.75),
        snow=palette.snow,
        wet=float(rng.uniform(0.5, 1)) if wet else 0.0,
    )
