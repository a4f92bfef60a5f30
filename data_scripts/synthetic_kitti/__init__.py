"""Synthetic drives in KITTI Raw's own layout: procedural streets, rendered cameras and lidar.

One scene serves every sensor: `cast` finds what a ray meets, `render` photographs and `scan`
measures with it, and `make_synthetic_kitti` writes whole drives. The files are read by the same
code as the real ones.
"""

from synthetic_kitti.camera import render
from synthetic_kitti.domain import Domain, read_domains
from synthetic_kitti.drive import Drive, Moment
from synthetic_kitti.drives import make_synthetic_kitti
from synthetic_kitti.lidar import scan
from synthetic_kitti.raycast import Hits, cast
from synthetic_kitti.rig import Rig

__all__ = [
    "Domain",
    "Drive",
    "Hits",
    "Moment",
    "Rig",
    "cast",
    "make_synthetic_kitti",
    "read_domains",
    "render",
    "scan",
]
