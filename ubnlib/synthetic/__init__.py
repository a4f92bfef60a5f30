"""Synthetic drives in KITTI Raw's own layout: procedural streets, rendered cameras and lidar.

One scene serves every sensor: `cast` finds what a ray meets, `render` photographs and `scan`
measures with it, and `make_synthetic_kitti` writes whole drives. The files are read by the same
code as the real ones.
"""

from ubnlib.synthetic.camera import render
from ubnlib.synthetic.domain import Domain, read_domains
from ubnlib.synthetic.drive import Drive, Moment
from ubnlib.synthetic.drives import make_synthetic_kitti
from ubnlib.synthetic.lidar import scan
from ubnlib.synthetic.raycast import Hits, cast
from ubnlib.synthetic.rig import Rig

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
