"""Make the records of the depth study (docs/depth_study.md), stage by stage.

    python data_scripts/study_depth.py claims --processes 2

Drives are rendered and packed where they are missing. A stopped stage goes on where it was.
"""

import argparse
import functools
import sys
from pathlib import Path

from experiments.common.parallel import obtain_all
from experiments.depth import study as depth_study
from experiments.depth.cancellation_experiment import run_cancellation
from experiments.depth.config import DepthConfig
from experiments.depth.data import CLAIMS, SEARCH, DepthData, study_drives
from experiments.depth.rgbd import RgbdFrames, split_by_time
from experiments.depth.train import run_depth

FOLDERS = {"claims": "records"}  # where notebook 3 finds them; the others have folders of their own
SCREENING_SEEDS, SEARCH_SEEDS = (1000, 1001, 1002), (1010, 1011, 1012, 1013)


def main() -> int:
    """Parse the arguments, make the data, then the records."""
    arguments = parse()
    stage = STAGES[arguments.stage]
    try:
        data, configs = stage(arguments)
    except (ValueError, OSError) as error:
        print(f"study_depth: {error}", file=sys.stderr)
        return 1
    run = run_cancellation if arguments.stage == "failure" else run_depth
    obtain_all(
        configs,
        functools.partial(run, data=data),
        arguments.results / FOLDERS.get(arguments.stage, f"depth_{arguments.stage}"),
        processes=arguments.processes,
        progress=arguments.stage,
    )
    return 0


Plan = tuple[DepthData, list[DepthConfig]]


def screening(arguments: argparse.Namespace) -> Plan:
    """Plan all readings around one setting, and some of them in others; and the repairs."""
    data = study_drives(arguments.data, SEARCH)
    forms = {**depth_study.READINGS, **depth_study.REPAIRS}
    cells = depth_study.screening()
    cells += [(name, depth_study.BASE) for name in depth_study.REPAIRS]
    return data, [
        depth_study.configured(forms[name], setting, data.fingerprint, seed)
        for seed in SCREENING_SEEDS
        for name, setting in cells
    ]


def failure(arguments: argparse.Namespace) -> Plan:
    """Plan the runs whose steps are measured."""
    data = study_drives(arguments.data, SEARCH)
    readings = [*depth_study.REPAIRS, "corrected"]
    return data, [
        depth_study.measured(name, data.fingerprint, SCREENING_SEEDS[0]) for name in readings
    ]


def search(arguments: argparse.Namespace) -> Plan:
    """Plan the search for a better form, and for a better BN."""
    data = study_drives(arguments.data, SEARCH)
    return data, [
        config
        for seed in SEARCH_SEEDS
        for config in depth_study.search(data.fingerprint, seed).values()
    ]


def claims(arguments: argparse.Namespace) -> Plan:
    """Plan Figure 6 and the claims: ten seeds at two shares, five at the others."""
    data = study_drives(arguments.data, CLAIMS)
    methods, everywhere = [*depth_study.METHODS, depth_study.TUNED_BN], ("BN", "UBN")
    cells = [(m, k, s) for s in range(10) for k in depth_study.CLAIMED for m in methods]
    cells += [(depth_study.LITERAL, depth_study.FRACTIONS[0], s) for s in range(5)]
    others = [k for k in depth_study.FRACTIONS if k not in depth_study.CLAIMED]
    cells += [(m, k, s) for s in range(5) for k in others for m in everywhere]
    return data, [depth_study.claimed(m, k, data.fingerprint, s) for m, k, s in cells]


def longer(arguments: argparse.Namespace) -> Plan:
    """Plan longer training with the fewest labels."""
    data = study_drives(arguments.data, CLAIMS)
    k, steps = depth_study.FRACTIONS[0], depth_study.LONGER
    return data, [
        depth_study.claimed(method, k, data.fingerprint, seed, steps=steps)
        for seed in range(5)
        for method in depth_study.METHODS
    ]


def indoor(arguments: argparse.Namespace) -> Plan:
    """Plan the runs on a folder of RGB-D frames."""
    if arguments.rgbd_root is None:
        raise ValueError("The indoor stage needs a folder: --rgbd-root (docs/rgbd.md).")
    frames = RgbdFrames(arguments.rgbd_root)
    data = DepthData(frames, *split_by_time(frames.keys))
    return data, [
        depth_study.claimed(method, k, data.fingerprint, seed, indoor=True)
        for seed in range(5)
        for k in depth_study.INDOOR_FRACTIONS
        for method in depth_study.METHODS
    ]


STAGES = {
    "screening": screening,
    "failure": failure,
    "search": search,
    "claims": claims,
    "longer": longer,
    "indoor": indoor,
}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--data", type=Path, default=Path("data/depth"), help="where drives go")
    parser.add_argument("--results", type=Path, default=Path("results/standard"))
    parser.add_argument("--rgbd-root", type=Path, help="folder of RGB-D frames, for `indoor`")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, a thread each")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
