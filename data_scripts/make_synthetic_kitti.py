"""Make synthetic drives in KITTI Raw's layout: a command line over `synthetic_kitti`."""

import argparse
import sys

from synthetic_kitti import make_synthetic_kitti


def main() -> int:
    """Parse the arguments, make the drives, print the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("root", help="folder to make")
    parser.add_argument("--drives", type=int, default=24, help="number of drives")
    parser.add_argument("--frames", type=int, default=16, help="frames per drive")
    parser.add_argument("--scale", type=float, default=0.25, help="image size; 1 is 1242 x 375")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    parser.add_argument("--azimuth-steps", type=int, default=400, help="lidar rays per beam")
    parser.add_argument("--workers", type=int, help="processes (default: one per usable core)")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    arguments = vars(parser.parse_args())
    progress = not arguments.pop("quiet")
    try:
        root = make_synthetic_kitti(arguments.pop("root"), progress=progress, **arguments)
    except (ValueError, OSError) as error:
        print(f"make_synthetic_kitti: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make_synthetic_kitti: interrupted; nothing was left behind.", file=sys.stderr)
        return 130
    print(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
