"""Pack KITTI Raw frames into the memory-mapped set that training reads."""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tqdm import tqdm

from ubnlib.kitti import KittiRaw, PackedDepth, load_split, prepare, select
from ubnlib.kitti.packed import frame_digest
from ubnlib.kitti.prepare import Preparation, usable_cores
from ubnlib.kitti.splits import SPLITS


def main() -> int:
    """Parse the arguments, show the plan, pack the frames, print the folder."""
    arguments = parse()
    try:
        dataset = choose(arguments)
        task = Preparation(dataset, arguments.folder)
        print(describe(task, arguments.workers), file=sys.stderr)
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
    options = dict(cameras=arguments.cameras, size=tuple(arguments.size), drives=arguments.drives)
    dataset = KittiRaw(arguments.root, **options)
    if arguments.split is None:
        return dataset
    wanted = [key for name in arguments.split for key in load_split(name)]
    if arguments.drives is not None:
        wanted = [key for key in wanted if key.drive_name in set(arguments.drives)]
    selection = select(dataset.keys, [key for key in wanted if key.camera in arguments.cameras])
    print(selection.report(), file=sys.stderr)
    if not selection.present:
        raise ValueError(f"{arguments.root} holds no frame of {' and '.join(arguments.split)}.")
    return KittiRaw(arguments.root, **options, keys=selection.present)


def describe(task: Preparation, workers: int) -> str:
    """Say what will be made, its disk space, and its time if every worker has a core of its own."""
    seconds = seconds_a_frame(task) * len(task.dataset) / max(workers, 1)
    height, width = task.dataset.size
    return (
        f"{task.dataset.report()}\n"
        f"to {task.folder} at {height}x{width}: {task.bytes_needed / 1e9:.2f} GB needed, "
        f"{task.bytes_free / 1e9:.2f} GB free, about {tqdm.format_interval(seconds)} "
        f"with {workers} workers"
    )


def seconds_a_frame(task: Preparation) -> float:
    """Time one frame; broken ones, which will be left out, are passed over."""
    warm, count = False, len(task.dataset)
    for index in (0, count // 2, *range(min(count, 8))):
        start = time.perf_counter()
        with suppress(ValueError, FileNotFoundError):
            task.read_frame(index)
            if warm:
                return time.perf_counter() - start
            warm = True  # the first call loads Pillow
    return 0.0


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
    add("--drives", nargs="+", help="drives, such as 2011_09_26_drive_0001")
    add("--split", nargs="+", choices=list(SPLITS), help="frames of these splits")
    add("--workers", type=int, default=usable_cores(), help="threads")
    add("--dry-run", action="store_true", help="show the plan and stop")
    add("--verify", action="store_true", help="read everything again at the end")
    add("--quiet", action="store_true", help="show no progress bar")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
