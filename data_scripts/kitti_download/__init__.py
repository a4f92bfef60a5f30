"""Download KITTI Raw drives: plan, fetch with resume, check, unpack, record."""

from kitti_download.patience import Patience
from kitti_download.plan import Plan, survey
from kitti_download.run import BASE_URL, Report, download

__all__ = ["BASE_URL", "Patience", "Plan", "Report", "download", "survey"]
