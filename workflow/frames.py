"""Render or find the frames of the depth runs and pack them, as one job of the workflow.

Its last act is to write what was packed, as JSON; whoever finds that file finds the frames.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from experiments.common.files import whole
from experiments.depth.data import pack_split, packed_folder
from job import duration, log_to, say, told
from synthetic_kitti import make_synthetic_kitti
from ubnlib.kitti import PackedDepth


def prepare_frames(parameters: dict[str, Any]) -> dict[str, Any]:
    """Prepare the frames of notebook 3, and return where they are and their fingerprints."""
    kitti_root, frames = parameters["kitti_root"], parameters["frames"]
    data_root = Path(parameters["data_root"])
    kind = "kitti" if kitti_root else "synthetic"
    root = Path(kitti_root) if kitti_root else data_root / kind
    if not kitti_root:
        make_synthetic_kitti(root, **parameters["synthetic"])
    packed = packed_folder(data_root, frames["size"], kind)
    data = pack_split(root, packed, **frames)
    prints = {"fingerprint": data.fingerprint, "frames": data.frames.fingerprint}  # with the split
    return {"packed": str(packed), **prints, "asked": _asked(parameters)}


def read_frames(path: Path, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """Read what this job wrote; None where frames must be prepared (again)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found["asked"] == _asked(parameters)
        return (
            found if same and PackedDepth(found["packed"]).fingerprint == found["frames"] else None
        )
    except (OSError, ValueError, KeyError):
        return None


def _asked(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what the frames depend on."""
    return {name: parameters[name] for name in ("kitti_root", "data_root", "synthetic", "frames")}


def main(plan: Path, target: Path) -> None:
    """Prepare the frames of a plan."""
    log = target.with_name("logs") / "frames.log"
    log_to(log)
    say(f"frames of the depth runs: rendering and packing (log: {log})")
    start = time.monotonic()
    with told("frames of the depth runs", log):
        found = prepare_frames(json.loads(plan.read_text(encoding="utf-8"))["frames"])
        with whole(target) as partial:
            partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
    say(f"frames of the depth runs done in {duration(time.monotonic() - start)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
