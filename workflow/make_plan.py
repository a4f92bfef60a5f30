"""Say what a profile would run and what that costs, and run nothing: what `make plan` does."""

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from calibrate import seconds_at_once
from check_profile import ProfileError
from costs import Estimate, estimate
from plan import Plan, make_plan
from reproduce import add_arguments, checked, graphics
from terminal import describe, duration


def main() -> int:
    """Check, look, calibrate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    try:
        profile, results, parameters = checked(args)
        plan = make_plan(profile, results, parameters)
        cores = int(args.cores)
        print(text_of(plan, estimate(plan, seconds_at_once(cores), cores, graphics()), cores))
    except (ProfileError, OSError, ValueError) as error:
        print(describe(error), file=sys.stderr)
        return 2
    return 0


def text_of(plan: Plan, cost: Estimate, cores: int) -> str:
    """Write a plan and its cost for the terminal."""
    counts = {notebook: Counter() for notebook in plan.parameters}
    for run, state, _ in plan.runs:
        counts[run.notebook][state] += 1
    table = pd.DataFrame(
        {
            notebook: {
                "runs": some.total(),
                **{state: some[state] for state in ("there", "outdated", "damaged", "missing")},
                "on one core": duration(cost.runs[notebook]) if cost.runs[notebook] else "-",
                "notebook": duration(cost.notebooks[notebook]),
            }
            for notebook, some in counts.items()
        }
    ).T
    if cost.frames is None:
        frames = "none needed, or there"
    else:
        frames = f"to prepare, {duration(cost.frames)} on {cores} cores"
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    lines = [
        f"Profile {plan.profile}, into {plan.results}",
        "",
        table.to_string(),
        "",
        f"Frames of the depth runs: {frames}.",
        f"Time: about {duration(cost.seconds)} on {cores} cores; a calibration on all of them took "
        f"{cost.slowness:.2f} times as long as on one core of {cost.reference}.",
        f"Memory: up to {cost.memory_mb / 1024:.1f} GB in {cores} jobs at a time.",
        f"Disk: about {cost.disk_mb / 1024:.1f} GB; {free:.0f} GB are free.",
        f"GPU: {cost.gpu}",
    ]
    if damaged := [reason for _, state, reason in plan.runs if state == "damaged"]:
        lines += ["", "Damaged, and to be made again:", *(reason for reason in damaged)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
