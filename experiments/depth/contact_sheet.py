"""A contact sheet of drives: for each one its image, and the lidar over it."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.depth.depth_colors import add_depth_bar, draw_lidar
from ubnlib.kitti import KittiRaw


def draw(
    dataset: KittiRaw,
    titles: Mapping[str, str] | None = None,
    *,
    drives: Sequence[str] | None = None,
    camera: int = 2,
    columns: int = 2,
    cap: float = 80.0,
) -> Figure:
    """Draw the middle frame of each drive and the lidar over it, a few drives a row.

    Args:
        dataset: Real or synthetic drives; only one frame of each is read.
        titles: What to write above a drive, by its name; the name itself by default.
        drives: Names of the drives to show, in this order; all by default.
        camera: The camera to show; a drive without it is shown by one that it has.
        columns: Drives in a row.
        cap: Depth of the color scale's far end, meters.

    Raises:
        ValueError: If a drive asked for is not in the dataset.
    """
    titles, drives = titles or {}, dataset.drives if drives is None else drives
    if unknown := sorted(set(drives) - set(dataset.drives)):
        raise ValueError(
            f"Drive {', '.join(unknown)} is not in the dataset: expected names among "
            f"{', '.join(dataset.drives)}."
        )
    frames = [_middle_frame(dataset, name, camera) for name in drives]
    columns = min(columns, len(frames))
    height, width = dataset.image(frames[0]).shape[1:]
    rows, cell = -(-len(frames) // columns), 6.5 / columns
    size = (2 * columns * cell, rows * (cell * height / width + 0.26) + 0.7)
    figure, grid = plt.subplots(rows, 2 * columns, figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, (name, index) in enumerate(zip(drives, frames, strict=True)):
        row, column = divmod(place, columns)
        left, right = grid[row][2 * column : 2 * column + 2]
        picture = dataset.image(index).permute(1, 2, 0).numpy()
        left.imshow(picture)
        depth = dataset.depth(index).numpy()
        scale = draw_lidar(right, picture, depth, 330 / columns / width, cap)
        left.set_title(titles.get(name, name), loc="left", fontsize=8)
    add_depth_bar(figure, scale, grid)
    return figure


def _middle_frame(dataset: KittiRaw, drive: str, camera: int) -> int:
    mine = [index for index, key in enumerate(dataset.keys) if key.drive_name == drive]
    seen = [index for index in mine if dataset.keys[index].camera == camera] or mine
    return seen[len(seen) // 2]
