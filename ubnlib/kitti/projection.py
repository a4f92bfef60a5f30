"""Velodyne scans to sparse depth maps, in KITTI's geometry (see `calibration`)."""

from pathlib import Path

import numpy as np


def read_velodyne(path: Path | str) -> np.ndarray:
    """Read a scan, a `.bin` file: [n, 4] float32, x forward, y left, z up in meters, reflectance.

    A missing file is a FileNotFoundError; one unreadable, empty or cut in a quadruple a ValueError.
    """
    path = Path(path)
    try:
        size, numbers = path.stat().st_size, np.fromfile(path, dtype="<f4")
    except FileNotFoundError:
        raise FileNotFoundError(f"Velodyne scan {path} is missing: extract it again.") from None
    except OSError as error:
        broken = f"Velodyne scan {path} cannot be read ({error})"
        raise ValueError(f"{broken}: allow to read it, or extract it again.") from error
    if size == 0 or size % 16:
        expected = "expected a positive multiple of 16, as of float32 quadruples; extract it again"
        raise ValueError(f"Velodyne scan {path} has {size} bytes: {expected}.")
    return numbers.reshape(-1, 4)


def scale_projection(
    projection: np.ndarray, native_shape: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    """Rescale a projection, [3, 4] float64, to images resized from one (height, width) to another.

    Pixel centers lie at integers and the borders half a pixel outside of the first and last ones,
    so a resize maps column u to (u + 1/2) W' / W - 1/2, and rows alike, as image resizing with
    `align_corners=False` (torch, Pillow, OpenCV) does: a depth map stays aligned to its image.

    Example:
        >>> scale_projection(np.eye(3, 4), (2, 4), (1, 2))[0]  # pixels 0, 1 share a center: -1/4
        array([ 0.5 ,  0.  , -0.25,  0.  ])
    """
    row, column = (new / old for new, old in zip(shape, native_shape, strict=True))
    resize = np.array([[column, 0, (column - 1) / 2], [0, row, (row - 1) / 2], [0, 0, 1]])
    return resize @ projection


def project_velodyne(
    points: np.ndarray, projection: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Project a scan into a sparse depth map; where points share a pixel, the nearest wins.

    A point falls into the pixel whose center is nearest. Points behind the scanner (x < 0) or the
    camera (depth <= 0), outside of the image, or with a coordinate that is not finite are dropped.
    For a resized image, pass `scale_projection(projection, native_shape, shape)`: projecting
    straight at the wanted resolution keeps about twice the points of shrinking the native map.

    Args:
        points: [n, >= 3], x, y, z in meters in velodyne coordinates; further columns are ignored.
        projection: [3, 4] from `Calibration.projection`, to pixels of an image of `shape`.
        shape: (height, width) of the map.

    Returns:
        [height, width] float32, the camera's z coordinate in meters; 0 = no return. An argument of
        another shape is a ValueError.
    """
    if points.ndim != 2 or points.shape[1] < 3:
        raise ValueError(f"points has shape {points.shape}, expected [n, 3] or [n, 4].")
    if projection.shape != (3, 4):
        raise ValueError(f"projection has shape {projection.shape}, expected (3, 4).")
    height, width = shape
    to_column, to_row, to_depth = np.asarray(projection, np.float64)
    ahead = points.take(np.flatnonzero(points[:, 0] >= 0), axis=0)
    x, y, z = (ahead[:, axis].astype(np.float64) for axis in range(3))

    # Written out in a fixed order: a matrix product would round as the processor's BLAS does, and
    # a point on a border would fall into another pixel from machine to machine.
    def along(row: np.ndarray) -> np.ndarray:
        return row[0] * x + row[1] * y + row[2] * z + row[3]

    with np.errstate(all="ignore"):  # what is not finite is dropped
        d = along(to_depth)
        column = np.floor(along(to_column) / d + 0.5)
        kept = np.flatnonzero((column >= 0) & (column < width) & (d > 0))
        x, y, z, d, column = x[kept], y[kept], z[kept], d[kept], column[kept]
        near = d.astype(np.float32)
        row = np.floor(along(to_row) / d + 0.5)
        kept = np.flatnonzero((row >= 0) & (row < height) & (near > 0) & (near < np.inf))
    pixel = (row[kept] * width + column[kept]).astype(np.intp)
    depth = np.zeros(height * width, np.float32)
    depth[pixel] = np.inf
    np.minimum.at(depth, pixel, near[kept])
    return depth.reshape(shape)
