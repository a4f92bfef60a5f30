"""The plan of the method's runs: what the ledger's quick claims ask for, and nothing twice."""

from pathlib import Path

import pytest

from experiments.common.records import write_record
from experiments.method.runs import EXPERIMENTS, make_run, method_runs
from experiments.verdicts.claims import judge, load_claims, read_evidence

CLAIMS = [
    claim
    for claim in load_claims(Path(__file__).parents[2] / "claims.yaml")
    if claim.query.experiment in EXPERIMENTS
]


@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_every_run_is_there_once(seeds):
    runs = method_runs(seeds)
    assert len({run.key for run in runs}) == len(runs)
    counts = {name: sum(run.experiment == name for run in runs) for name in EXPERIMENTS}
    assert counts == {"identities": seeds, "implementation": seeds, "step_cost": max(seeds, 5)}
    assert all(isinstance(run, EXPERIMENTS[run.experiment][0]) for run in runs)


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds is 0"):
        method_runs(0)


def test_the_quick_runs_answer_the_ledgers_claims(tmp_path):
    """With the timing's settings and fewer repeats on a small image: its verdicts are not asked."""
    for run in method_runs(3):
        if run.experiment == "step_cost":
            run = run.model_copy(update={"size": (16, 32), "repeats": 1})
        write_record(make_run(run), tmp_path)
    table = read_evidence(tmp_path).table
    judgements = {claim.id: judge(claim, table, "quick") for claim in CLAIMS}
    assert {"eq1-batchnorm", "eq2-eq3-averages", "easy-to-implement", "inexpensive"} <= set(
        judgements
    )
    for claim in CLAIMS:
        judgement = judgements[claim.id]
        assert judgement.seeds >= claim.seeds and judgement.estimate is not None
        if claim.query.experiment != "step_cost":
            assert judgement.verdict == "reproduced", claim.id
