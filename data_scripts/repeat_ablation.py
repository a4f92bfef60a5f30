"""Make some records of the ablation a second time, and say whether their numbers are the same.

    python data_scripts/repeat_ablation.py --number 3 --seed 0

The records are chosen at random. Numbers are the same on the same machine and versions.
"""

import argparse
import random
import sys
from pathlib import Path

from experiments.ablation.config import AblationConfig
from experiments.ablation.experiment import run_ablation
from experiments.common.records import read_record
from study_ablation import CLAIMS, scenes_of


def main() -> int:
    """Repeat the chosen records and compare; return 1 if one differs."""
    arguments = parse()
    folder = arguments.results / "records"
    paths = sorted(folder.glob("ablation-*.json"))
    if len(paths) < arguments.number:
        print(f"repeat_ablation: {folder} has {len(paths)} records of it.", file=sys.stderr)
        return 1
    differ = False
    for path in random.Random(arguments.seed).sample(paths, arguments.number):
        record = read_record(path)
        config = AblationConfig.model_validate(record.config)
        try:
            scenes = scenes_of(config.domain, CLAIMS, arguments)
            again = run_ablation(config, scenes)
        except ValueError as error:
            print(f"repeat_ablation: {path.name}: {error}", file=sys.stderr)
            return 1
        same = again.metrics == record.metrics
        differ |= not same
        print(
            f"{path.name}: {config.domain}, {config.ingredient}, {config.name}, "
            f"{len(config.seeds)} seeds: {'the same' if same else 'NOT the same'}",
            flush=True,
        )
    return int(differ)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=3, help="how many records")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--data", type=Path, default=Path("data/depth"), help="where drives are")
    parser.add_argument("--results", type=Path, default=Path("results/standard"))
    parser.add_argument("--rgbd-root", type=Path, help="folder of RGB-D frames, for `indoor`")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
