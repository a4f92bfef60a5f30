"""Make the records of the ablation (docs/ablation_study.md), domain by domain.

    python data_scripts/study_ablation.py spiral digits

Each domain is tuned first, except `indoor`, which takes the choices of `drives`. A stopped study
goes on where it was. The depth domains render and pack synthetic drives where they are missing.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.ablation.config import AblationConfig, Domain
from experiments.ablation.domains import Scenes
from experiments.ablation.experiment import run_ablation
from experiments.ablation.plan import CLAIM_SEEDS, Trial, afterwards, claimed
from experiments.ablation.study import reader
from experiments.ablation.tuning import tune
from experiments.common.parallel import obtain_all
from experiments.common.records import Record
from experiments.depth.data import CLAIMS, INDOOR, SEARCH, DepthData, study_drives
from experiments.depth.rgbd import RgbdFrames, split_by_time

ROOM = (36, 48)  # size of the indoor frames


def main() -> int:
    """Parse the arguments, then tune and run each domain."""
    arguments = parse()
    try:
        for domain in arguments.domains:
            study(domain, arguments)
    except (ValueError, OSError) as error:
        print(f"study_ablation: {error}", file=sys.stderr)
        return 1
    return 0


def study(domain: Domain, arguments: argparse.Namespace) -> None:
    """Make the records of one domain."""
    choices = tuned("drives" if domain == "indoor" else domain, arguments)
    if arguments.only_tuning:
        return
    scenes = scenes_of(domain, CLAIMS, arguments)
    data = scenes.data.fingerprint if scenes else ""
    obtain(
        claimed(domain, choices, data=data),
        scenes,
        arguments.results / "records",
        f"{domain}, claims",
    )
    later = afterwards(domain, data=data)
    obtain(later, scenes, arguments.results / "ablation_after", f"{domain}, after the fact")


def tuned(domain: Domain, arguments: argparse.Namespace) -> dict[str, Trial]:
    """Return the choices of a domain, from its tuning runs."""
    scenes = scenes_of(domain, SEARCH, arguments)
    data = scenes.data.fingerprint if scenes else ""
    folder = arguments.results / "ablation_tuning"

    def records(configs: Sequence[AblationConfig]) -> list[Record]:
        return obtain(configs, scenes, folder, f"{domain}, tuning")

    return tune(domain, reader(folder) if arguments.tuned else records, data=data)


def obtain(
    configs: Sequence[AblationConfig], scenes: Scenes | None, folder: Path, progress: str
) -> list[Record]:
    """Return the records of runs, making the missing ones."""
    run = functools.partial(run_ablation, scenes=scenes)
    return obtain_all(configs, run, folder, progress=progress)


def scenes_of(domain: Domain, seed: int, arguments: argparse.Namespace) -> Scenes | None:
    """Return the frames of a depth domain, with others of another distribution beside them."""
    if domain == "drives":
        data, other = (study_drives(arguments.data, number) for number in (seed, 1 - seed))
        return Scenes(data, other.frames, {})
    if domain == "indoor":
        if arguments.rgbd_root is None:
            raise ValueError("The indoor domain needs a folder of frames: --rgbd-root.")
        frames = RgbdFrames(arguments.rgbd_root, size=ROOM)
        data = DepthData(frames, *split_by_time(frames.keys))
        return Scenes(data, study_drives(arguments.data, CLAIMS, ROOM).frames, INDOOR)
    return None


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("domains", nargs="+", choices=list(CLAIM_SEEDS))
    parser.add_argument("--data", type=Path, default=Path("data/depth"), help="where drives go")
    parser.add_argument("--results", type=Path, default=Path("results/standard"))
    parser.add_argument("--rgbd-root", type=Path, help="folder of RGB-D frames, for `indoor`")
    parser.add_argument("--tuned", action="store_true", help="take tuning records as they are")
    parser.add_argument("--only-tuning", action="store_true", help="make no claim's run")
    arguments = parser.parse_args()
    if "indoor" in arguments.domains and arguments.rgbd_root is None:
        parser.error("the indoor domain needs a folder of frames: --rgbd-root (docs/rgbd.md)")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
