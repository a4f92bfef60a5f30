"""Make the records of a study, stage by stage: docs/depth_study.md, docs/ablation_study.md.

    python -m experiments.run depth.claims --domain drives --processes 2

Synthetic drives are rendered and packed where they are missing. A stopped stage goes on where it
was.
"""

import argparse
import sys
from pathlib import Path

import experiments.ablation.runs
import experiments.depth.runs
from experiments.common.arguments import whole_number
from experiments.depth.study import DOMAINS

SECTIONS = {"depth": experiments.depth.runs, "ablation": experiments.ablation.runs}
STAGES = {f"{name}.{s}": make for name, runs in SECTIONS.items() for s, make in runs.STAGES.items()}


def main() -> int:
    """Make the stage named on the command line."""
    arguments = parse()
    try:
        STAGES[arguments.stage](arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{arguments.stage}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{arguments.stage}: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--data", type=Path, default=Path("data/depth"), help="where drives go")
    parser.add_argument("--results", type=Path, default=Path("results/standard"))
    parser.add_argument("--rgbd-root", type=Path, help="folder of real RGB-D frames")
    domains = [name for name, domain in DOMAINS.items() if domain.load]
    parser.add_argument("--domain", default="drives", choices=domains, help="of the depth study")
    processes = parser.add_argument("--processes", type=whole_number, default=1)
    processes.help = "runs at a time, a thread each"
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
