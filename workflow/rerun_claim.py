"""Make the runs behind one claim again, in a folder of their own: what `make claim` does.

Nothing of the profile's results is touched; at the end both verdicts stand side by side. Stopped,
the same command goes on; to make the runs once more, delete the folder that it names.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from check_profile import ProfileError
from reproduce import DATA, add_arguments, checked, locked, run, snakemake
from terminal import describe

CLAIMS = Path("claims.yaml")


def main() -> int:
    """Check, run, judge; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claim", help="a claim's id in claims.yaml")
    add_arguments(parser)
    args = parser.parse_args()
    try:
        return rerun(args)
    except (ProfileError, OSError, ValueError) as error:
        print(describe(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from there.", file=sys.stderr)
        return 130


def rerun(args: argparse.Namespace) -> int:
    """Make the claim's runs and print its verdict; return the exit status."""
    profile, usual, parameters = checked(args)
    from costs import costs_of
    from experiments.verdicts.claims import load_claims
    from plan import make_plan, write_plan

    claims = {claim.id: claim for claim in load_claims(CLAIMS)}
    if args.claim not in claims:
        raise ProfileError(f"There is no claim '{args.claim}'; there are: {', '.join(claims)}.")
    claim = claims[args.claim]
    results = usual / "claims" / claim.id
    with locked(results) as lock:
        log = None if args.cluster else results / "logs" / "snakemake.log"
        plan = make_plan(profile, results, parameters)
        wanted = answering(claim, plan.runs, profile)
        if DATA in {run.notebook for run in wanted.values()} and plan.data is None:
            if code := run(snakemake(write_plan(plan, {}), args, ["data"]), lock, log):
                return code
            plan = make_plan(profile, results, parameters)
            wanted = answering(claim, plan.runs, profile)
        path = write_plan(plan, costs_of(plan), only=set(wanted))
        if code := run(snakemake(path, args, ["runs"]), lock, log):
            print(f"Not finished; the same command goes on. Logs: {results / 'logs'}")
            return code
    for where, folder in (("again", results), ("recorded", usual)):
        print(f"{where:>8}: {verdict_of(claim, folder / 'records', profile)}")
    print(f"The records are in {results / 'records'}; delete them to make them once more.")
    return 0


def answering(claim: Any, runs: list[Any], profile: str) -> dict[str, Any]:
    """Return those of a plan's runs that a claim's query asks for, by their files.

    Raises:
        ProfileError: There are none.
    """
    found = {}
    query = claim.query
    sides = [] if query is None else [query.where, query.baseline]
    evidence = [planned for planned in runs if planned.run.folder == "records"]
    for planned in evidence if sides else ():
        config = planned.run.config.model_dump(mode="json")
        flat = pd.json_normalize(config).iloc[0].to_dict()
        for side in sides:
            asked = {} if side is None else {"experiment": query.experiment, **side}
            if asked and all(_equal(flat.get(name), value) for name, value in asked.items()):
                found[planned.run.file] = planned.run
    if not found:
        raise ProfileError(
            f"The profile {profile} makes no run for the claim '{claim.id}'; another profile, or a "
            "script in data_scripts/, makes its records (claims.yaml says what they must be)."
        )
    return found


def _equal(value: Any, wanted: Any) -> bool:
    """Compare a configuration's entry with a query's; null in the query is an entry left open."""
    return value is None or value != value if wanted is None else value == wanted


def verdict_of(claim: Any, folder: Path, profile: str) -> str:
    """Judge a claim by the records in a folder, in a line."""
    from experiments.common.records import read_records
    from experiments.verdicts.claims import judge

    judgement = judge(claim, read_records(folder), profile)
    numbers = ""
    if judgement.estimate is not None:
        numbers = f"{judgement.estimate:.3g}"
        if judgement.low is not None:
            numbers += f" [{judgement.low:.3g}, {judgement.high:.3g}]"
        numbers += f", {judgement.seeds} seeds, "
    return f"{numbers}{judgement.verdict} ({judgement.reason})"


if __name__ == "__main__":
    sys.exit(main())
