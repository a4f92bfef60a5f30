"""The ablation's plan and the tuning's budget, with made-up results in the place of runs."""

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.ablation import plan
from experiments.ablation.methods import BN, UBN, Method
from experiments.ablation.plan import (
    BASE,
    CLAIM_SEEDS,
    LABELS,
    RATES,
    TUNING_SEEDS,
    claimed,
    configured,
    ingredients,
    peers,
    smaller,
)
from experiments.ablation.tuning import tune
from experiments.common.records import read_record

DOMAINS = tuple(BASE)
TUNED = tuple(TUNING_SEEDS)


def usual_choices(domain):
    """What tuning would give if the first trial of each peer were the best."""
    return {name: peer.trials[0] for name, peer in peers(domain).items()}


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


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_run_of_the_claims_has_a_name_and_a_key_of_its_own(domain):
    configs = claimed(domain, usual_choices(domain), data="frames")
    names = Counter((c.ingredient, c.name, c.setting.labels) for c in configs)
    keys = Counter(c.key for c in configs)
    assert set(names.values()) == set(keys.values()) == {1}
    for config in configs:
        assert (config.domain, config.stage, config.data) == (domain, "claims", "frames")
        assert config.seeds == CLAIM_SEEDS[domain]
        assert config.ingredient and config.name


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_claims_have_every_cell_at_every_number_of_labels(domain):
    expected = {("baselines", "UBN"), ("baselines", "BN")}
    expected |= {(i, name) for i, methods in ingredients(domain).items() for name in methods}
    expected |= {("peers", name) for name in peers(domain)}
    configs = claimed(domain, usual_choices(domain))
    found = {(c.ingredient, c.name, c.setting.labels) for c in configs}
    assert found == {(*cell, labels) for cell in expected for labels in LABELS[domain]}


@pytest.mark.parametrize("domain", DOMAINS)
def test_ingredients_share_the_setting_and_differ_from_the_default_in_the_method(domain):
    default = Method(norm=UBN())
    for config in claimed(domain, usual_choices(domain)):
        if config.ingredient == "peers":
            continue
        assert config.setting == BASE[domain].model_copy(update={"labels": config.setting.labels})
        if config.ingredient != "baselines":
            assert config.method != default, f"{config.name} is the default"


def test_no_seed_serves_both_tuning_and_claims_nor_an_earlier_study():
    claims, tuning = (set().union(*seeds.values()) for seeds in (CLAIM_SEEDS, TUNING_SEEDS))
    assert not claims & tuning
    assert all(200 <= seed < 900 for seed in claims) and all(900 <= seed < 1000 for seed in tuning)
    assert CLAIM_SEEDS.keys() == BASE.keys() == LABELS.keys()
    assert TUNING_SEEDS.keys() == BASE.keys() - {"indoor"}, "nothing is tuned on the room"


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_peer_has_three_different_trials_of_which_none_changes_the_rate(domain):
    for name, peer in peers(domain).items():
        assert len(peer.trials) == 3
        keys = {configured(domain, *trial, stage="claims").key for trial in peer.trials}
        assert len(keys) == 3, f"{name} has the same trial twice"
        assert all(change.keys() <= {"labeled_batch"} for _, change in peer.trials)
        first = configured(domain, *peer.trials[0], stage="claims").setting
        assert first == BASE[domain], f"{name}'s first trial is not at the usual setting"


def test_peers_that_are_left_out():
    assert peers("drives").keys() - peers("spiral").keys() == {"InstanceNorm"}
    assert peers("drives") == peers("indoor"), "the room takes the choices of the drives"


@pytest.mark.parametrize("domain", DOMAINS)
def test_cells_of_bias_and_noise_are_normalized_by_other_rows_alone(domain):
    cells = ingredients(domain)["bias and noise"]
    pools = {name: method.rows.pool for name, method in cells.items()}
    numbers = {name: method.rows.number for name, method in cells.items()}
    assert all(method.norm == UBN(unlabeled_weight=1) for method in cells.values())
    assert all(name.startswith(pool) for name, pool in pools.items())
    assert Counter(pools.values()) == {"labeled": 2, "everything": 2}
    batch = BASE[domain].labeled_batch
    for name, number in numbers.items():
        assert number == batch if name.endswith("batch") else number == "all" or number > 4 * batch


def test_a_run_changes_what_it_says_and_nothing_else():
    config = configured("digits", Method(), {"labeled_batch": 7}, stage="tuning", data="x")
    assert config.setting == BASE["digits"].model_copy(update={"labeled_batch": 7})
    assert config.seeds == TUNING_SEEDS["digits"] and config.stage == "tuning"


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


@pytest.mark.parametrize("domain", TUNED)
def test_where_all_are_level_the_usual_values_stay(domain):
    base = BASE[domain].learning_rate
    for name, (method, change) in tune(domain, Results(same)).items():
        usual, own = peers(domain)[name].trials[0]
        assert (method, change) == (usual, {**own, "learning_rate": base})


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("trial", [0, 1, 2])
@pytest.mark.parametrize("domain", TUNED)
def test_the_best_rate_is_found_and_then_the_best_of_its_own_values(domain, rate, trial):
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
    assert choices["BN"][0] == choices["BN, refreshed"][0] == Method(norm=BN())
    assert choices["BN"][1]["learning_rate"] == pytest.approx(base / 3)
    assert choices["BN, refreshed"][1]["learning_rate"] == base
    metrics = Counter(peer.metric for peer in peers("digits").values())
    assert metrics["refreshed_accuracy"] == 1 and metrics["accuracy"] == len(choices) - 1


def test_a_trial_that_gets_worse_leaves_the_best_as_it_was():
    def score(config):
        return 0.9 if config.method == Method(dropout=0.1) else 0.1

    method, change = tune("digits", Results(score))["BN, dropout"]
    assert method == Method(dropout=0.1)
    assert change == {"learning_rate": BASE["digits"].learning_rate}


def test_the_same_run_for_two_peers_may_be_made_once():
    """BN is tried for itself and for its refreshed statistics: equal keys, so one record."""
    results = Results(same)
    tune("digits", results)
    asked = Counter(config.key for config in results.rounds[0])
    assert sorted(asked.values())[-4:] == [1, 2, 2, 2]


def test_a_run_without_a_number_is_not_taken_for_the_best():
    """A record has None for NaN: it must end the tuning, rather than win it."""

    class Broken(Results):
        def metrics(self, config):
            found = super().metrics(config)
            return {name: [None for _ in values] for name, values in found.items()}

    with pytest.raises(TypeError):
        tune("digits", Broken(same))


@pytest.mark.parametrize("domain", TUNED)
def test_tuned_choices_make_runs(domain):
    choices = tune(domain, Results(same))
    configs = [c for c in claimed(domain, choices) if c.ingredient == "peers"]
    assert len(configs) == len(choices) * len(LABELS[domain])
    for config in configs:
        method, change = choices[config.name]
        assert config.method == method
        ours = {**BASE[domain].model_dump(), **change, "labels": config.setting.labels}
        assert config.setting.model_dump() == ours


def test_names_of_the_baselines_are_not_those_of_anything_else():
    assert plan.DEFAULT != plan.PLAIN
    for domain in DOMAINS:
        assert {"baselines", "peers"}.isdisjoint(ingredients(domain))


@pytest.mark.parametrize("domain", DOMAINS)
def test_runs_after_the_fact_are_those_of_the_committed_records(domain):
    folder = Path(__file__).parents[2] / "results" / "standard" / "ablation_after"
    records = [read_record(path) for path in folder.glob("*.json")]
    data = {record.config["domain"]: record.config["data"] for record in records}
    runs = plan.afterwards(domain, data=data.get(domain, ""))
    ours = [record.key for record in records if record.config["domain"] == domain]
    assert [run.key for run in runs] == ours
