"""Compare synthetic drives with real ones: a table of statistics, and a figure."""

import argparse
import sys
from pathlib import Path

import pandas as pd

import drive_statistics
from experiments.common import style
from experiments.depth.figures import draw_contact_sheet
from frame_statistics import measure_drives
from synthetic_kitti import read_domains
from ubnlib.kitti import KittiRaw


def main() -> int:
    """Parse the arguments, measure the drives, print the table, keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("synthetic", help="folder of synthetic drives")
    parser.add_argument("real", help="folder of real ones; both in KITTI Raw's layout")
    parser.add_argument("--before", help="a third folder, such as one by an older version")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 208), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--bands", type=int, default=8, help="bands of rows for depth")
    parser.add_argument("--max-frames", type=int, default=24, help="frames of each drive")
    parser.add_argument("--camera", type=int, default=2, help="2 is the left one, 3 the right one")
    parser.add_argument("--out", help="folder for the figures")
    parser.add_argument("--sheet", type=int, default=10, help="drives on the contact sheet")
    arguments = parser.parse_args()
    try:
        compare(arguments)
    except (ValueError, OSError) as error:
        print(f"compare_drives: {error}", file=sys.stderr)
        return 1
    return 0


def compare(arguments: argparse.Namespace) -> None:
    """Measure, print, draw."""
    folders = {"real": arguments.real, "synthetic": arguments.synthetic}
    if arguments.before:
        folders["before"] = arguments.before
    sets = {}
    for title, folder in folders.items():
        dataset = KittiRaw(folder, cameras=(arguments.camera,), size=tuple(arguments.size))
        print(f"{title}: {folder}, {dataset.report()}")
        sets[title] = measure_drives(
            dataset, bands=arguments.bands, max_frames=arguments.max_frames
        )
    images, depth = drive_statistics.image_table(sets), drive_statistics.depth_table(sets)
    print(f"\nImages\n{images.round(3).to_string()}")
    print(f"\nDepth; distances are to the real drives\n{depth.round(3).to_string()}")
    if len(sets["real"]) > 1:
        first, second = list(sets["real"])[:2]
        pair = {name: {name: sets["real"][name]} for name in (first, second)}
        table = drive_statistics.depth_table(pair).iloc[[1]].round(3).to_string()
        print(f"\nFor scale, {second} against {first}\n{table}")
    if arguments.out:
        out = Path(arguments.out)
        style.apply_style()
        style.save(drive_statistics.draw(sets), "drive_statistics", depth.reset_index(), out)
        domains = read_domains(arguments.synthetic)
        titles = {name: ", ".join(domain).replace("_", " ") for name, domain in domains.items()}
        dataset = KittiRaw(arguments.synthetic)
        sheet = draw_contact_sheet(dataset, titles, drives=dataset.drives[: arguments.sheet])
        table = pd.DataFrame(domains.values(), index=domains.keys()).reset_index(names="drive")
        style.save(sheet, "contact_sheet", table, out)


if __name__ == "__main__":
    sys.exit(main())
