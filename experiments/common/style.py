"""One style for all figures, and one way to keep them: picture, print and data together."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments.common.files import whole

# Okabe and Ito's palette, which readers with color blindness can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, GRAY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#777777",
)
CLASS_COLORS = (BLUE, ORANGE)
METHOD_COLORS = {
    "BN": GRAY,
    "UBN": BLUE,
    "BN, labeled again": ORANGE,
    "UBN, literal": PURPLE,
    "constant map": GRAY,
}
CLASS_MAP = LinearSegmentedColormap.from_list("classes", ["#7FB8D8", "#F7F7F7", "#EAAE7F"], N=64)
DEPTH_MAP = "magma_r"


def apply_style() -> None:
    """Set matplotlib's defaults for the figures of this companion."""
    plt.rcParams.update(
        {
            "figure.dpi": 85,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 150,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY, GRAY]),
            "legend.frameon": False,
            "lines.linewidth": 1.5,
        }
    )


def save(figure: Figure, name: str, table: pd.DataFrame, folder: Path | str) -> Figure:
    """Keep a figure as NAME.png and NAME.pdf with its data as NAME.csv, and return it closed.

    Closed, so that a notebook shows it once, as the value of its cell.
    """
    folder = Path(folder)
    for ending in ("png", "pdf"):
        with whole(folder / f"{name}.{ending}") as partial:
            figure.savefig(partial, format=ending)
    with whole(folder / f"{name}.csv") as partial:
        table.to_csv(partial, index=False)
    plt.close(figure)
    return figure
