"""Pack KITTI Raw frames into the memory-mapped set that training reads."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from experiments.common.arguments import whole_number
from experiments.depth.packing import NAMED_SPLITS, find_split, packing_costs
from ubnlib.kitti import KittiRaw, PackedDepth, prepare
from ubnlib.kitti.packed import frame_digest
from ubnlib.kitti.prepare import Preparation, usable_cores


def main() -> int:
    """Parse the arguments, show the plan, pack the frames, print the folder."""
    arguments = parse()
    try:
        dataset = choose(arguments)
        task = Preparation(dataset, arguments.folder)
        print(packing_costs(task, arguments.workers), file=sys.stderr)
        if arguments.dry_run:
            return 0
        packed = prepare(
            dataset, arguments.folder, workers=arguments.workers, progress=not arguments.quiet
        )
        if arguments.verify:
            verify(packed, workers=arguments.workers, progress=not arguments.quiet)
    except (ValueError, OSError) as error:
        print(f"prepare_kitti: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_kitti: interrupted; the same command goes on where it was.", file=sys.stderr)
        return 130
    print(packed.report(), file=sys.stderr)
    print(packed.folder)
    return 0


def choose(arguments: argparse.Namespace) -> KittiRaw:
    """Return the frames that the arguments ask for, at their size."""
    options = dict(cameras=arguments.cameras, size=tuple(arguments.size))
    if arguments.split is None:
        return KittiRaw(arguments.root, **options, drives=arguments.drives)
    dataset, sides = find_split(arguments.root, split=arguments.split, **options)
    print(sides.report(), file=sys.stderr)
    return dataset


def verify(packed: PackedDepth, *, workers: int = 2, progress: bool = False) -> None:
    """Read everything and compare it with the frame table's digests."""
    with ThreadPoolExecutor(workers) as pool:
        digests = pool.map(lambda index: frame_digest(*packed.stored(index)), range(len(packed)))
        bar = tqdm(digests, "Verifying", len(packed), unit="frame", disable=not progress)
        for key, found, digest in zip(packed.keys, bar, packed.digests, strict=True):
            if found != digest:
                raise ValueError(
                    f"Frame {tuple(key)} in {packed.folder} is not what was written there: remove "
                    f"the folder and prepare it again."
                )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("root", help="folder of KITTI Raw, above the dates; synthetic drives do")
    add("folder", help="folder to make")
    add("--size", type=int, nargs=2, default=(256, 832), metavar=("HEIGHT", "WIDTH"), help="pixels")
    add("--cameras", type=int, nargs="+", default=(2, 3), help="color cameras")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", choices=list(NAMED_SPLITS), help="its frames; all without it")
    which.add_argument("--drives", nargs="+", help="drives, such as 2011_09_26_drive_0001")
    add("--workers", type=whole_number, default=usable_cores(), help="threads")
    add("--dry-run", action="store_true", help="show the plan and stop")
    add("--verify", action="store_true", help="read everything again at the end")
    add("--quiet", action="store_true", help="show no progress bar")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
