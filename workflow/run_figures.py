"""The figures of a run: which notebook each is from, and a small version of it."""

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

THUMBNAIL = 560  # pixels across


def group_figures(folder: Path, names: list[str]) -> dict[str, list[dict[str, str]]]:
    """Give each figure to the notebook whose number its file name begins with.

    Args:
        folder: Holds NAME.png, with NAME.pdf and NAME.csv beside it.
        names: The notebooks, such as `02_toy_analysis`.

    Returns:
        For each notebook, and "" for all other figures, a list of figures: `name` and the file
        names of what exists under `png`, `pdf` and `csv`.
    """
    groups: dict[str, list] = {name: [] for name in [*names, ""]}
    by_number = {name.split("_")[0]: name for name in names}
    for png in sorted(folder.glob("[!.]*.png")):
        figure = {"name": png.stem}
        for kind in ("png", "pdf", "csv"):
            if png.with_suffix(f".{kind}").exists():
                figure[kind] = png.with_suffix(f".{kind}").name
        groups[by_number.get(png.stem.split("_")[0], "")].append(figure)
    return groups


def thumbnail(path: Path) -> str:
    """Return a small version of a picture as a data address; "" for a file that is no picture."""
    try:
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return ""
    picture.thumbnail((THUMBNAIL, 2 * THUMBNAIL), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode()
