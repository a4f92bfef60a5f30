"""The plan of the method's runs: what the ledger's quick claims ask for, and nothing twice."""

from pathlib import Path

from experiments.common.records import write_record
from experiments.method.runs import EXPERIMENTS, notebook_runs
from experiments.verdicts.claims import judge, load_claims, read_evidence

CLAIMS = [
    claim
    for claim in load_claims(Path(__file__).parents[2] / "claims.yaml")
    if claim.query.experiment in EXPERIMENTS
]


def test_the_quick_runs_answer_the_ledgers_claims(tmp_path):
    """Timings are not made: that there are enough of the right setting is what is asked of them."""
    configs = [run.config for run in notebook_runs({"seeds": 3})]
    assert len({config.key for config in configs}) == len(configs) == 3 + 3 + 5
    for config in configs:
        if config.experiment != "step_cost":
            write_record(EXPERIMENTS[config.experiment].run(config), tmp_path)
    table = read_evidence(tmp_path).table
    assert len(CLAIMS) >= 8
    for claim in CLAIMS:
        query = claim.query
        if query.experiment != "step_cost":
            expected = "measured" if claim.kind == "cost" else "reproduced"
            assert judge(claim, table, "quick").verdict == expected, claim.id
            continue
        asked = [c.model_dump() for c in configs if c.experiment == query.experiment]
        assert all(config[name] == query.where[name] for config in asked for name in query.where)
        assert len(asked) >= claim.seeds
