"""One style for all figures: each method's look, in one table; and one way to keep a figure.

A caption says what a picture shows, to those too who cannot see it. It is the figure's label, set
where the figure is drawn, and goes into the files and pages that have the picture.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from experiments.common.files import whole


class Look(NamedTuple):
    """How one thing is drawn in every figure, so that it is known again without its color."""

    color: str
    marker: str
    dash: Any

    @property
    def line(self) -> dict[str, Any]:
        """What `Axes.plot` and `Axes.errorbar` want, with marks that show on the lines."""
        return dict(color=self.color, marker=self.marker, markersize=4.5, linestyle=self.dash)

    @property
    def aside(self) -> dict[str, Any]:
        """The same method in what is only compared with: thin, and hollow marks."""
        return self.line | dict(linewidth=0.8, markersize=3.5, markerfacecolor="white")


INK, MUTED, FAINT = "#333333", "#767676", "#C9C9C9"  # what has no look of its own
# From dark to light, each as far from the next in gray as it goes; a test measures it.
METHODS = {
    "BN": Look("#141414", "s", "--"),
    "mean teacher": Look("#361568", "*", (0, (1, 1))),
    "LayerNorm": Look("#810025", "p", (0, (6, 1, 1, 1, 1, 1))),
    "Batch Renorm": Look("#055C5E", "v", (0, (2, 1))),
    "UBN": Look("#016CAF", "o", "-"),
    "UBN, literal": Look("#DF4919", "X", "-."),
    "BN, labeled again": Look("#CB6FBF", "D", (0, (4, 1, 4, 3))),
    "constant map": Look("#A4A4A4", "", ":"),  # it looks at no image
    "UBN, joint": Look("#30CBF3", "^", (0, (8, 2))),
}
METHODS["UBN, joint gradient"] = METHODS["UBN, joint"]
_FIRST, _SECOND, _THIRD = "#01665E", "#D8B365", "#502C10"
SERIES = {  # what else is drawn beside each other
    "labeled": Look(_FIRST, "o", "-"),
    "unlabeled": Look(_SECOND, "^", "--"),
    "test": Look(_THIRD, "s", "-."),
    "regular grid": Look(FAINT, "", ":"),
    "happened": Look(_FIRST, "o", "-"),
    "promised": Look(_SECOND, "^", "--"),
    "spread": Look(_FIRST, "o", "-"),
    "doubt": Look(_SECOND, "s", "--"),
    "real": Look(_FIRST, "o", "-"),
    "synthetic": Look(_SECOND, "^", "--"),
    "before": Look(_THIRD, "s", "-."),
    "labels from all places": Look(INK, "D", "-"),
    "labels from few places": Look(MUTED, "v", "--"),
    "statistics change": Look(_FIRST, "^", "-"),
    "statistics do not change": Look(_SECOND, "v", ":"),
}
CLASSES = (Look("#54278F", "o", ""), Look("#F1A340", "^", ""))
VERDICTS = {
    "reproduced": "#0072B2",
    "partially": "#56B4E9",
    "opposite": "#8C2D04",
    "no difference": "#009E73",
    "not reproduced": "#D55E00",
    "inconclusive": "#9A9A9A",
    "not tested here": "#C4BFB2",
    "not run": "#D5D5D5",
    "measured": "#5B6B7B",
}
# Both darken or brighten from one end to the other, so that they are read in gray too.
CLASS_MAP = LinearSegmentedColormap.from_list("classes", ["#8E7CC3", "#CFCBDD", "#FFF3D6"], N=64)
GAIN_MAP = LinearSegmentedColormap.from_list("gain", ["#FFF2D0", "#D9DDE3", "#4F94CD"], N=64)
DEPTH_MAP = "magma_r"
DPI = 90  # on a page; files have twice as many, for screens that show them


def look(name: str) -> Look:
    """Return how a method or series is drawn; whoever adds one gives it a look here."""
    if name not in METHODS and name not in SERIES:
        raise ValueError(
            f"{name!r} has no look: expected one of {', '.join([*METHODS, *SERIES])}; "
            "give it one in experiments/common/style.py."
        )
    return METHODS.get(name) or SERIES[name]


def apply_style() -> None:
    """Set matplotlib's defaults for the figures of this companion."""
    plt.rcParams.update(
        {
            "figure.dpi": DPI,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 2 * DPI,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "legend.handlelength": 3.2,  # so that dashes are told apart
            "lines.linewidth": 1.5,
        }
    )


@dataclass(frozen=True)
class Picture:
    """A figure that was kept, as a notebook shows it: at half its size, with its caption."""

    png: bytes
    caption: str
    width: int  # on a page, in pixels

    def __repr__(self) -> str:  # also what JupyterLab keeps beside the picture
        return self.caption

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        data = {"image/png": self.png, "text/plain": self.caption}
        return data, {"image/png": {"alt": self.caption, "width": self.width}}


def save(figure: Figure, name: str, table: pd.DataFrame, folder: Path | str) -> Picture:
    """Keep a figure as NAME.png and NAME.pdf with its data as NAME.csv, and close it.

    Its label (`Figure.set_label`) is its caption, kept in the files' own descriptions.
    """
    caption = " ".join(figure.get_label().split())
    if not caption:
        raise ValueError(f"Figure {name} has no caption: say with its set_label what it shows.")
    folder = Path(folder)
    for ending, field in (("png", "Description"), ("pdf", "Subject")):
        with whole(folder / f"{name}.{ending}") as partial:
            figure.savefig(partial, format=ending, metadata={field: caption})
    with whole(folder / f"{name}.csv") as partial:
        table.to_csv(partial, index=False)
    plt.close(figure)
    png = in_few_colors(folder / f"{name}.png")
    return Picture(png, caption, round(figure.get_figwidth() * DPI))


def in_few_colors(path: Path) -> bytes:
    """Return a PNG file's picture in 256 colors, for notebooks: a third of the bytes."""
    content = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256).save(content, "PNG", optimize=True)
    return content.getvalue()
