"""The layout of a street: how wide it is and where side streets meet it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Street:
    """Layout of the flat surfaces; meters. The road runs along x, its middle is y = 0."""

    style: str
    """city, residential or country."""
    lane: float
    """Width of a lane; there is one each way."""
    parking: float
    """Width of the parking strip beside each lane; 0 where there is none."""
    sidewalk: float
    """Width of each sidewalk; 0 where there is none."""
    verge: float
    """From the sidewalk to the houses."""
    crossings: tuple[float, ...]
    """Where side streets meet the road."""
    verge_color: tuple[float, float, float]
    asphalt: float
    """Albedo of the road."""
    edge_lines: bool
    center_line: bool

    CROSSING: ClassVar[float] = 4.0
    """Half width of a side street."""

    @property
    def curb(self) -> float:
        """Distance from the middle to the curb."""
        return self.lane + self.parking

    @property
    def front(self) -> float:
        """Distance from the middle to the house fronts."""
        return self.curb + self.sidewalk + self.verge

    def is_open(self, x: float, margin: float) -> bool:
        """Return whether x lies in the mouth of a side street."""
        return any(abs(x - at) < self.CROSSING + margin for at in self.crossings)


def random_layout(rng: np.random.Generator, length: float) -> Street:
    """Draw the layout of a street of some length."""
    style = str(rng.choice(["city", "residential", "country"], p=[0.4, 0.4, 0.2]))
    country = style == "country"
    green = np.array((0.13, 0.17, 0.05)) * rng.uniform(0.7, 1.3) + (rng.uniform(0, 0.07), 0, 0)
    paving = np.array((0.30, 0.29, 0.27)) * rng.uniform(0.7, 1.1)
    first = rng.uniform(10, 45)
    crossings = np.arange(first, length, rng.uniform(45, 70)) if not country else ()
    return Street(
        style=style,
        lane=rng.uniform(2.9, 3.6),
        parking=0.0 if country or rng.random() < 0.25 else 2.1,
        sidewalk=0.0 if country else rng.uniform(1.6, 3.0),
        verge=rng.uniform(*{"city": (0.2, 0.4), "residential": (2, 5), "country": (14, 26)}[style]),
        crossings=tuple(float(x) for x in crossings),
        verge_color=tuple(paving if style == "city" else green),
        asphalt=float(rng.uniform(0.09, 0.2)),
        edge_lines=bool(country or rng.random() < 0.3),
        center_line=bool(country or rng.random() < 0.75),
    )
