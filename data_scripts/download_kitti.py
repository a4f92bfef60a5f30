"""Download drives of KITTI Raw: a command line over `kitti_download`.

Prints what it takes (bytes, time, disk), then fetches, checks and unpacks color images, lidar
scans, timestamps and calibration. Run again, it goes on where it stopped. The KITTI data is
licensed CC BY-NC-SA 3.0, for non-commercial use: A. Geiger, P. Lenz, C. Stiller, R. Urtasun,
"Vision meets Robotics: The KITTI Dataset", IJRR 2013.
"""

import argparse
import sys
from pathlib import Path

from kitti_download import BASE_URL, Patience, Report, download, survey
from kitti_download.catalog import DRIVE_SPLITS, choose_drives


def main() -> int:
    """Parse the arguments, print the plan, download, print what failed."""
    arguments = _parser().parse_args()
    options = {"parallel": arguments.jobs, "keep_archives": arguments.keep_archives}
    options["patience"] = Patience(read=arguments.timeout, attempts=arguments.attempts)
    try:
        drives = choose_drives(arguments.drives, arguments.split)
        rate = arguments.rate * 1e6
        plan = survey(arguments.root, drives, arguments.base_url, rate=rate, **options)
        print(plan, flush=True)
        if arguments.dry_run:
            return 0
        progress = not arguments.quiet
        report = download(arguments.root, plan, arguments.base_url, progress=progress, **options)
    except (ValueError, OSError) as error:
        print(f"download_kitti: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ndownload_kitti: interrupted; what arrived is kept, run the same command to go on.",
            file=sys.stderr,
        )
        return 130
    return _conclude(report, arguments.root)


def _conclude(report: Report, root: Path) -> int:
    for note in report.notes:
        print(f"note: {note}")
    for name, reason in report.failed.items():
        print(f"download_kitti: {name} failed: {reason}", file=sys.stderr)
    print(root)
    return 1 if report.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder for DATE/DATE_drive_NNNN_sync")
    parser.add_argument("--drives", nargs="+", metavar="NAME", help="as 2011_09_26_drive_0001")
    parser.add_argument(
        "--split", choices=DRIVE_SPLITS, default="all", help="all is 173 GB to fetch"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--base-url", default=BASE_URL, help="where the archives are")
    parser.add_argument("--jobs", type=_at_least_one, default=4, help="archives at the same time")
    parser.add_argument("--rate", type=_positive, default=10.0, help="MB/s, to estimate the time")
    parser.add_argument("--keep-archives", action="store_true", help="keep them in ROOT/archives")
    parser.add_argument("--timeout", type=_positive, default=60.0, help="seconds without a byte")
    parser.add_argument("--attempts", type=_at_least_one, default=8, help="without a new byte")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    return parser


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: at least 1 is needed")
    return number


def _positive(text: str) -> float:
    if not 0 < (number := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
