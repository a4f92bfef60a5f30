"""Make the record of one depth run, on one device or, by torchrun, on several.

    python data_scripts/train_depth.py RUN.json data/packed --records results/paper/records
    torchrun --nproc-per-node 8 data_scripts/train_depth.py RUN.json data/packed ...

RUN.json is a run's configuration, as notebook 3 writes it for every run that it needs. A run that
was killed goes on from its checkpoint.
"""

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from experiments.common.records import Record, current_record
from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData, usual_split
from experiments.depth.ranks import Ranks, joined
from experiments.depth.train import checkpoint_path, obtain_depth, run_depth
from ubnlib.kitti import PackedDepth


def main() -> int:
    """Parse the arguments, train, print the record's key and accuracy."""
    arguments = parse()
    try:
        config = DepthConfig.model_validate_json(arguments.run.read_text())
        frames = PackedDepth(arguments.packed)
        data = DepthData(frames, *usual_split(frames.keys, arguments.test_every))
        with joined() as ranks:
            record = make_record(config, data, ranks, arguments)
    except (ValidationError, ValueError, OSError, FloatingPointError) as error:
        print(f"train_depth: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train_depth: interrupted; the same command goes on where it was.", file=sys.stderr)
        return 130
    if record is not None:
        print(f"{record.key}: delta1 {record.metrics['delta1'][0]:.3f}")
    return 0


def make_record(
    config: DepthConfig, data: DepthData, ranks: Ranks, arguments: argparse.Namespace
) -> Record | None:
    """Make the record if it is missing; the first process writes it, and the others help."""
    how = dict(ranks=ranks, every_seconds=arguments.every_seconds, workers=arguments.workers)
    if ranks.first:
        return obtain_depth(
            config,
            data,
            arguments.records,
            checkpoints=arguments.checkpoints,
            weights=arguments.weights,
            progress=f"1/{config.labels.k}, seed {config.seed}",
            **how,
        )
    # The first process writes after all have trained, so that all see the same here.
    if current_record(config, arguments.records) is None:
        checkpoint = checkpoint_path(config, arguments.checkpoints)
        run_depth(config, data, checkpoint=checkpoint, **how)
    return None


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's configuration, a JSON file")
    parser.add_argument("packed", type=Path, help="folder that prepare_kitti.py made")
    parser.add_argument("--records", type=Path, default=Path("results/depth/records"))
    parser.add_argument("--checkpoints", type=Path, default=Path("results/depth/checkpoints"))
    parser.add_argument("--weights", type=Path, help="folder for the trained net; none: not kept")
    parser.add_argument("--every-seconds", type=float, default=600.0, help="between checkpoints")
    parser.add_argument("--test-every", type=int, default=1, help="test on one frame in so many")
    parser.add_argument("--workers", type=int, default=2, help="processes that read ahead")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
