"""What sets drives apart: the street, the season and the light, by name."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

STREETS = {"city": 0.32, "residential": 0.28, "country": 0.2, "highway": 0.2}
SEASONS = {"summer": 0.5, "autumn": 0.18, "winter": 0.18, "snow": 0.14}
LIGHTS = {"sunny": 0.34, "low_sun": 0.18, "overcast": 0.2, "rain": 0.1, "mist": 0.09, "dusk": 0.09}
"""How likely each kind is."""
DRIVE_FILE = "drive.json"


class Domain(NamedTuple):
    """The named attributes of one drive; analyses group by them."""

    street: str  # city, residential, country or highway
    season: str  # summer, autumn, winter (bare trees) or snow
    light: str  # sunny, low_sun, overcast, rain (a wet road), mist or dusk

    @classmethod
    def nth(cls, seed: int, number: int) -> "Domain":
        """Return the domain of a drive so that any run of drives is varied.

        Steps of the generalized golden ratio (M. Roberts' R3 sequence) fill the cube of attributes
        more evenly than chance does, which matters where a few drives are held out for testing.
        """
        steps = 1.2207440846057596 ** -np.arange(1.0, 4.0)
        shares = (np.random.default_rng([seed]).random(3) + number * steps) % 1
        names = []
        for table, share in zip((STREETS, SEASONS, LIGHTS), shares, strict=True):
            ends = np.cumsum(list(table.values()))
            place = min(int(np.searchsorted(ends, share, side="right")), len(table) - 1)
            names.append(list(table)[place])
        return cls(*names)


class Palette(NamedTuple):
    """What a season does to plants and ground."""

    leaf: np.ndarray  # albedo of foliage, or of twigs where there are no leaves; [3]
    sparse: float  # how open the crowns of trees are; see `solids.rounded`
    grass: np.ndarray  # albedo of the verge, [3]
    snow: float  # share of snow on the ground and on roofs, in [0, 1]

    @classmethod
    def random(cls, rng: np.random.Generator, season: str) -> "Palette":
        """Draw the colors of one drive's season."""
        leaves = {
            "summer": [(0.09, 0.14, 0.035), (0.06, 0.10, 0.035), (0.13, 0.16, 0.04)],
            "autumn": [(0.26, 0.15, 0.03), (0.30, 0.10, 0.03), (0.24, 0.20, 0.04)],
        }.get(season, [(0.11, 0.085, 0.065), (0.08, 0.07, 0.06)])
        grass = {
            "summer": (0.12, 0.16, 0.05),
            "autumn": (0.19, 0.16, 0.06),
            "winter": (0.18, 0.16, 0.09),
            "snow": (0.66, 0.67, 0.70),
        }[season]
        return cls(
            leaf=np.array(leaves[rng.integers(len(leaves))]) * rng.uniform(0.8, 1.2),
            sparse=float({"summer": 0.9, "autumn": 1.3}.get(season, rng.uniform(2.6, 3.1))),
            grass=np.array(grass) * rng.uniform(0.8, 1.2),
            snow=float(rng.uniform(0.6, 1.0)) if season == "snow" else 0.0,
        )


def read_domains(root: str | os.PathLike) -> dict[str, Domain]:
    """Read the domains of synthetic drives, by names such as `"2000_01_01_drive_0001"`."""
    domains = {}
    for path in sorted(Path(root).glob(f"*/*_sync/{DRIVE_FILE}")):
        try:
            written = json.loads(path.read_text())
            domain = Domain(*(str(written[name]) for name in Domain._fields))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} does not describe a synthetic drive ({error!r}): expected "
                f"{', '.join(Domain._fields)}; make the drives anew."
            ) from None
        domains[path.parent.name.removesuffix("_sync")] = domain
    if not domains:
        raise FileNotFoundError(
            f"{root} holds no synthetic drive ({DRIVE_FILE} in none): make some with "
            "data_scripts/make_synthetic_kitti.py."
        )
    return domains
