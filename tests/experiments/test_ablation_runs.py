"""The ablation's plan and the tuning's budget, with made-up results in the place of runs."""

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.ablation import runs as plan
from experiments.ablation.methods import UBN, Method
from experiments.ablation.runs import (
    BASE,
    CLAIM_SEEDS,
    LABELS,
    RATES,
    TUNING_SEEDS,
    claimed,
    configured,
    peers,
    smaller,
    tune,
)
from experiments.common.records import read_record
from experiments.common.training import BNConfig

DOMAINS = tuple(BASE)
STANDARD = Path(__file__).parents[2] / "results" / "standard"
TUNED = tuple(TUNING_SEEDS)


class Results:
    """Stands for runs: gives each a made-up result, and notes what was asked for."""

    def __init__(self, score):
        self.score, self.rounds = score, []

    def __call__(self, configs):
        self.rounds.append(list(configs))
        return [SimpleNamespace(key=c.key, metrics=self.metrics(c)) for c in configs]

    def metrics(self, config):
        """The mean over seeds is the score, but no seed has it."""
        found = self.score(config)
        found = found if isinstance(found, dict) else {"accuracy": found}
        found = {"refreshed_accuracy": 0.0, **found}
        spread = len(config.seeds)
        return {
            k: [v + 0.01 * (2 * i - spread + 1) for i in range(spread)] for k, v in found.items()
        }


def same(_):
    return 0.5


# The plan


def committed(folder, domain):
    """The keys of a domain's committed records, and the fingerprint of its frames."""
    records = [read_record(path) for path in sorted((STANDARD / folder).glob("ablation-*.json"))]
    found = [record for record in records if record.config["domain"] == domain]
    (data,) = {record.config["data"] for record in found} or {""}
    return {record.key for record in found}, data


@pytest.mark.parametrize("domain", [domain for domain in DOMAINS if domain != "drives"])
def test_the_plan_lists_the_committed_runs(domain):
    """Tuned by the committed records, as the study was."""
    tuned = "drives" if domain == "indoor" else domain
    _, searched = committed("ablation_tuning", tuned)
    choices = tune(tuned, plan.reader(STANDARD / "ablation_tuning"), data=searched)
    keys, data = committed("records", domain)
    runs = claimed(domain, choices, data=data)
    assert {run.key for run in runs} == keys and len(runs) == len(keys)
    later, data = committed("ablation_after", domain)
    assert {run.key for run in plan.afterwards(domain, data=data)} == later


def test_no_seed_serves_both_tuning_and_claims_nor_an_earlier_study():
    claims, tuning = (set().union(*seeds.values()) for seeds in (CLAIM_SEEDS, TUNING_SEEDS))
    assert not claims & tuning
    assert all(200 <= seed < 900 for seed in claims) and all(900 <= seed < 1000 for seed in tuning)
    assert CLAIM_SEEDS.keys() == BASE.keys() == LABELS.keys()
    assert TUNING_SEEDS.keys() == BASE.keys() - {"indoor"}, "nothing is tuned on the room"


def test_a_quick_look_has_fewer_seeds_and_steps_and_a_key_of_its_own():
    run = configured("spiral", Method(), {}, stage="claims", ingredient="peers", name="BN")
    quick = smaller(run, seeds=2, steps=20)
    assert quick.seeds == run.seeds[:2] and quick.setting.steps == 20
    assert quick == run.model_copy(update={"seeds": quick.seeds, "setting": quick.setting})
    assert quick.key != run.key
    assert smaller(run, seeds=99, steps=10**6) == run


# Tuning


@pytest.mark.parametrize("domain", TUNED)
def test_every_peer_spends_five_trials(domain):
    results = Results(same)
    choices = tune(domain, results, data="frames")
    assert list(choices) == list(peers(domain))
    tried = {}
    for configs in results.rounds:
        assert len(configs) == 3 * len(choices)
        for name, three in zip(choices, zip(*[iter(configs)] * 3, strict=True), strict=True):
            tried.setdefault(name, []).extend(three)
    for name, trials in tried.items():
        assert len(trials) == 6 and len({c.key for c in trials}) == 5, name
        rates = {c.setting.learning_rate for c in trials}
        assert rates == {rate * BASE[domain].learning_rate for rate in RATES}
    for config in itertools.chain(*tried.values()):
        assert (config.stage, config.data) == ("tuning", "frames")
        assert config.seeds == TUNING_SEEDS[domain]
        assert config.setting.labels == BASE[domain].labels


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("trial", [0, 1, 2])
def test_the_best_rate_is_found_and_then_the_best_of_its_own_values(rate, trial):
    domain = "digits"
    found = peers(domain)
    wanted = {
        configured(domain, method, {**change, "learning_rate": rate * BASE[domain].learning_rate},
                   stage="tuning").key
        for method, change in (peer.trials[trial] for peer in found.values())
    }  # fmt: skip

    def score(config):
        right = config.setting.learning_rate == rate * BASE[domain].learning_rate
        value = 0.4 + 0.1 * right + 0.2 * (config.key in wanted)
        return {"accuracy": value, "refreshed_accuracy": value}

    for name, (method, change) in tune(domain, Results(score)).items():
        expected, own = found[name].trials[trial]
        assert method == expected
        assert change == {**own, "learning_rate": rate * BASE[domain].learning_rate}


def test_a_choice_is_made_by_the_peers_own_metric():
    """Of equal runs, BN takes the one that is best as trained, and *BN, refreshed* the other."""

    def score(config):
        slow = config.setting.learning_rate < BASE["digits"].learning_rate
        return {"accuracy": 0.5 + 0.2 * slow, "refreshed_accuracy": 0.5 - 0.2 * slow}

    choices, base = tune("digits", Results(score)), BASE["digits"].learning_rate
    assert choices["BN"][0] == choices["BN, refreshed"][0] == Method(norm=BNConfig())
    assert choices["BN"][1]["learning_rate"] == pytest.approx(base / 3)
    assert choices["BN, refreshed"][1]["learning_rate"] == base
    metrics = Counter(peer.metric for peer in peers("digits").values())
    assert metrics["refreshed_accuracy"] == 1 and metrics["accuracy"] == len(choices) - 1


# The study


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The arguments of a study of four runs on the spiral, of two steps and two seeds."""
    few = {"BN": plan.Peer(((Method(), {}),) * 3)}
    joint = {"gradient": {"all": Method(norm=UBN(stats_grad="all"))}}
    monkeypatch.setitem(plan.BASE, "spiral", BASE["spiral"].model_copy(update={"steps": 2}))
    monkeypatch.setitem(plan.CLAIM_SEEDS, "spiral", (200, 201))
    monkeypatch.setitem(plan.TUNING_SEEDS, "spiral", (900, 901))
    monkeypatch.setattr(plan, "ingredients", lambda domain: joint)
    monkeypatch.setattr(plan, "peers", lambda domain: few)
    return SimpleNamespace(data=tmp_path, results=tmp_path, rgbd_root=None, processes=1)


def contents(folder):
    return {p.relative_to(folder): p.read_text() for p in folder.rglob("*.json")}


def test_a_study_is_made_once_and_goes_on(small):
    folder, stage = small.results, plan.STAGES["spiral"]
    stage(small)
    made = contents(folder)
    assert len([p for p in made if p.parts[0] == "records"]) == 4
    assert len([p for p in made if p.parts[0] == "ablation_tuning"]) == 3  # one a learning rate
    lost = next(folder.glob("records/*.json"))
    lost.unlink()
    stage(small)
    again = contents(folder)
    assert again.keys() == made.keys()
    assert {p for p in made if again[p] != made[p]} <= {lost.relative_to(folder)}


def test_a_room_needs_a_folder(small):
    with pytest.raises(ValueError, match=r"needs a folder: --rgbd-root \(docs/rgbd.md\)"):
        plan.study("indoor", small)
