"""Render or find the frames of the depth runs and pack them, as one job of the workflow.

Its last act is to write what was packed, as JSON; whoever finds that file finds the frames.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from experiments.depth.data import pack_split, packed_folder
from synthetic_kitti import make_synthetic_kitti
from terminal import describe, duration, say
from ubnlib.kitti import PackedDepth
from whole import write_whole


def prepare_data(parameters: dict[str, Any]) -> dict[str, Any]:
    """Prepare the frames of notebook 3.

    Args:
        parameters: The notebook's.

    Returns:
        `packed` (the folder), `fingerprint` (of frames and split), `frames` (of the frames alone)
        and the numbers of images `train` and `test`.
    """
    kitti_root, frames = parameters["kitti_root"], parameters["frames"]
    data_root = Path(parameters["data_root"])
    kind = "kitti" if kitti_root else "synthetic"
    root = Path(kitti_root) if kitti_root else data_root / kind
    if not kitti_root:
        make_synthetic_kitti(root, **parameters["synthetic"])
    data = pack_split(root, packed_folder(data_root, frames["size"], kind), **frames)
    return {
        "packed": str(packed_folder(data_root, frames["size"], kind)),
        "fingerprint": data.fingerprint,
        "frames": data.frames.fingerprint,
        "train": len(data.train_keys),
        "test": len(data.test_keys),
    }


def read_data(path: Path, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """Read what `prepare_data` wrote, or None where the frames must be prepared (again)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found.pop("parameters") == _asked(parameters)
        return (
            found if same and PackedDepth(found["packed"]).fingerprint == found["frames"] else None
        )
    except (OSError, ValueError, KeyError):
        return None


def _asked(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what the frames depend on."""
    return {name: parameters[name] for name in ("kitti_root", "data_root", "synthetic", "frames")}


def main() -> None:
    """Prepare the frames named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--parameters", type=json.loads, required=True, help="a JSON object")
    args = parser.parse_args()
    args.log.parent.mkdir(parents=True, exist_ok=True)
    with args.log.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    say(f"frames of the depth runs: rendering and packing (log: {args.log})")
    start = time.monotonic()
    try:
        found = prepare_data(args.parameters) | {"parameters": _asked(args.parameters)}
        write_whole(args.target, json.dumps(found, indent=1))
    except (Exception, KeyboardInterrupt) as error:
        logging.exception("no frames")
        say(f"frames of the depth runs FAILED: {describe(error)} (log: {args.log})")
        raise SystemExit(1) from None
    say(f"frames of the depth runs done in {duration(time.monotonic() - start)}")


if __name__ == "__main__":
    main()
