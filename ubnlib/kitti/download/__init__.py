"""Download KITTI Raw drives: plan, fetch with resume, check, unpack, record."""

from ubnlib.kitti.download.patience import Patience
from ubnlib.kitti.download.plan import Plan, survey
from ubnlib.kitti.download.run import BASE_URL, Report, download

__all__ = ["BASE_URL", "Patience", "Plan", "Report", "download", "survey"]
