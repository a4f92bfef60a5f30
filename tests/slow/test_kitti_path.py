"""From KITTI Raw's archives to a running training, by the commands of docs/kitti.md."""

import json
import os
import subprocess
import sys
import zipfile

from kitti_server import KittiServer, zip_of
from small_project import ROOT, depth_project

DRIVES = ("2011_09_26_drive_0001", "2011_09_26_drive_0052")
project = depth_project


def run(script, *arguments, cwd):
    command = [sys.executable, ROOT / script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def archives(raw):
    """The archives that KITTI would have of the real frames here, by their addresses."""
    files = {}
    for drive in DRIVES:
        paths = (raw / drive[:10] / f"{drive}_sync").rglob("000000000?.*")
        content = {path.relative_to(raw).as_posix(): path.read_bytes() for path in paths}
        files[f"raw_data/{drive}/{drive}_sync.zip"] = content
    # A camera that no frame here has, and the archive of a drive must: one file of the other's.
    lacking = files[f"raw_data/{DRIVES[1]}/{DRIVES[1]}_sync.zip"]
    left = next(name for name in lacking if "image_02" in name)
    lacking[left.replace("image_02", "image_03")] = lacking[left]
    calibration = {p.relative_to(raw).as_posix(): p.read_bytes() for p in raw.glob("*/calib_*")}
    return files | {"raw_data/2011_09_26_calib.zip": calibration}


def test_from_archives_to_a_running_training(kitti_sample, project):
    with KittiServer() as server:
        for name, content in archives(kitti_sample / "kitti_raw").items():
            server.files[name] = zip_of(content, zipfile.ZIP_STORED)
        options = ("--base-url", server.url, "--quiet", "--drives", *DRIVES)
        run("data_scripts/download_kitti.py", "kitti_raw", *options, cwd=project)
    packed = "data/small/packed-kitti-eigen-64x128"
    options = ("--split", "eigen", "--size", 64, 128, "--quiet")
    said = run("data_scripts/prepare_kitti.py", "kitti_raw", packed, *options, cwd=project)
    assert "split eigen, to train on: " in said and " of 45,200 images; " in said
    images = project / packed / "images.npy"
    made = images.stat().st_mtime_ns, images.stat().st_ino

    choice = ("--profile", "small", "--kitti-root", "kitti_raw", "--cores", 1)
    said = run("workflow/reproduce.py", "--plan", *choice, cwd=project)
    assert "split eigen, to test on" in said and "GB needed" in said and "GB of memory" in said
    said = run("workflow/reproduce.py", "--prepare", *choice, cwd=project)
    results = project / "results" / "small-kitti"
    assert "nothing was trained" in said and not list(results.glob("records/*"))
    assert (images.stat().st_mtime_ns, images.stat().st_ino) == made  # packed once
    assert "Frames of the depth runs: packed" in run(
        "workflow/reproduce.py", "--plan", *choice, cwd=project
    )
    config = next(path for path in (results / "runs").glob("depth-*.json"))
    options = ("--split", "eigen", "--records", "records", "--workers", 0)
    command = [sys.executable, "-m", "experiments.depth.train", config, packed, *map(str, options)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0 and f"{config.stem.split('-')[-1]}: delta1 0." in done.stdout
    plan = json.loads((results / "plan.json").read_text())
    job = next(iter(plan["jobs"]))
    run("workflow/run.py", results / "plan.json", job, cwd=project)
    assert len(list(results.glob("records/*.json"))) == len(plan["jobs"][job]["runs"])
