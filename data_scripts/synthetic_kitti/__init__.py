"""Synthetic drives in KITTI Raw's own layout: procedural streets, rendered cameras and lidar.

One scene serves every sensor: `cast` finds what a ray meets, `render` photographs and `scan`
measures with it, and `make_synthetic_kitti` writes whole drives. The files are read by the same
code as the real ones.
"""

from synthetic_kitti.domain import read_domains
from synthetic_kitti.drives import make_synthetic_kitti

__all__ = ["make_synthetic_kitti", "read_domains"]
