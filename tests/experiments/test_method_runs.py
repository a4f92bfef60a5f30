"""The plan of the method's runs: what the ledger's quick claims ask for, and nothing twice."""

from pathlib import Path

import pytest

from experiments.common.records import write_record
from experiments.method.runs import EXPERIMENTS, notebook_runs
from experiments.verdicts.claims import judge, load_claims, read_evidence

CLAIMS = [
    claim
    for claim in load_claims(Path(__file__).parents[2] / "claims.yaml")
    if claim.query.experiment in EXPERIMENTS
]


@pytest.mark.parametrize("seeds", [1, 10])
def test_every_run_is_there_once(seeds):
    runs = [run.config for run in notebook_runs({"seeds": seeds})]
    assert len({run.key for run in runs}) == len(runs)
    counts = {name: sum(run.experiment == name for run in runs) for name in EXPERIMENTS}
    assert counts == {"identities": seeds, "implementation": seeds, "step_cost": max(seeds, 5)}
    assert all(isinstance(run, EXPERIMENTS[run.experiment].config) for run in runs)


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds is 0"):
        notebook_runs({"seeds": 0})


def test_the_quick_runs_answer_the_ledgers_claims(tmp_path):
    """With the timing's settings and fewer repeats on a small image: its verdicts are not asked."""
    for _, config, *_ in notebook_runs({"seeds": 3}):
        if config.experiment == "step_cost":
            config = config.model_copy(update={"width": 0.05, "size": (16, 32), "repeats": 1})
        write_record(EXPERIMENTS[config.experiment].run(config), tmp_path)
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
