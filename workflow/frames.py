"""Render or find the frames of the depth runs and pack them, as one job of the workflow.

Its last act is to write what was packed, as JSON; whoever finds that file finds the frames.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from experiments.common.files import whole
from experiments.depth.data import packed_folder, split_data
from experiments.depth.packing import find_split, packing_costs
from job import duration, log_to, say, told
from synthetic_kitti import make_synthetic_kitti
from ubnlib.kitti import PackedDepth, prepare
from ubnlib.kitti.prepare import Preparation


def prepare_frames(parameters: dict[str, Any], workers: int) -> dict[str, Any]:
    """Prepare the frames of notebook 3, and return where they are and their fingerprints."""
    root, packed = folders(parameters)
    if not parameters["kitti_root"]:
        make_synthetic_kitti(root, **parameters["synthetic"], workers=workers)
    asked = _named(parameters)
    raw, sides = find_split(root, **asked)
    test_every = parameters["frames"]["test_every"]
    data = split_data(prepare(raw, packed, workers=workers), asked["split"], test_every)
    prints = {"fingerprint": data.fingerprint, "frames": data.frames.fingerprint}  # with the split
    report = f"{sides.report()}\nin {root}: {raw.report()}\npacked: {data.frames.report()}"
    return {"packed": str(packed), **prints, "asked": _asked(parameters), "report": report}


def plan_frames(parameters: dict[str, Any], workers: int) -> str:
    """Say which frames would be packed, what is missing, and the time and disk space it takes."""
    root, packed = folders(parameters)
    if not parameters["kitti_root"] and not root.exists():
        return f"to be rendered into {root} and packed first; split {parameters['split']}"
    raw, sides = find_split(root, **_named(parameters))
    return (
        f"to be packed first\n{sides.report()}\n{packing_costs(Preparation(raw, packed), workers)}"
    )


def folders(parameters: dict[str, Any]) -> tuple[Path, Path]:
    """Return the folder of the drives, and the one of their packed frames."""
    data_root, kitti_root = Path(parameters["data_root"]), parameters["kitti_root"]
    kind = f"kitti-{parameters['split']}" if kitti_root else "synthetic"
    packed = packed_folder(data_root, parameters["frames"]["size"], kind)
    return Path(kitti_root) if kitti_root else data_root / kind, packed


def _named(parameters: dict[str, Any]) -> dict[str, Any]:
    cameras, size = (parameters["frames"][name] for name in ("cameras", "size"))
    return {"split": parameters["split"], "cameras": cameras, "size": size}


def read_frames(path: Path, parameters: dict[str, Any]) -> dict[str, Any] | None:
    """Read what this job wrote; None where frames must be prepared (again)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        packed = PackedDepth(found["packed"])
        same = (found["asked"], found["frames"]) == (_asked(parameters), packed.fingerprint)
        if same and parameters["kitti_root"]:  # where frames may have come, or been repaired
            raw, _ = find_split(parameters["kitti_root"], **_named(parameters))
            same = Preparation(raw, found["packed"]).source == packed.manifest.source
        return found if same else None
    except (OSError, ValueError, KeyError):
        return None


def _asked(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what the frames depend on."""
    names = ("kitti_root", "data_root", "synthetic", "frames", "split")
    return {name: parameters[name] for name in names}


def main(plan: Path, target: Path, workers: int) -> None:
    """Prepare the frames of a plan."""
    log = target.with_name("logs") / "frames.log"
    log_to(log)
    say(f"frames of the depth runs: rendering and packing (log: {log})")
    start = time.monotonic()
    with told("frames of the depth runs", log):
        found = prepare_frames(json.loads(plan.read_text(encoding="utf-8"))["frames"], workers)
        with whole(target) as partial:
            partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for line in found["report"].splitlines():
        say(line)
    say(f"frames of the depth runs done in {duration(time.monotonic() - start)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), int(sys.argv[3]))
