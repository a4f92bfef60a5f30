"""The runs of the ablation: ingredients one at a time, and peers under one budget of tuning.

docs/ablation_study.md says why. A run is a method and a setting under a name.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.ablation.config import AblationConfig, Domain, Setting
from experiments.ablation.methods import UBN, Ghost, Group, Method, Renorm, Rows, Split, Teacher

LABELS: dict[Domain, tuple[int, ...]] = {
    "spiral": (25,),  # points a class
    "digits": (5, 20, 10, 50),  # images a class, the fewest first
    "drives": (128,),  # every so many frame
    "indoor": (64,),
}
BASE: dict[Domain, Setting] = {
    "spiral": Setting(labels=25, labeled_batch=16, other_batch=64, learning_rate=1e-2, steps=500),
    "digits": Setting(labels=10, labeled_batch=32, other_batch=96, learning_rate=3e-3, steps=200),
    "drives": Setting(labels=128, labeled_batch=4, other_batch=4, learning_rate=3e-3, steps=120),
    "indoor": Setting(labels=64, labeled_batch=4, other_batch=4, learning_rate=3e-3, steps=120),
}
# Claims never share a seed with tuning; seeds below 200 were used by the toy and depth studies.
CLAIM_SEEDS: dict[Domain, tuple[int, ...]] = {
    "spiral": tuple(range(200, 230)),
    "digits": tuple(range(200, 205)),
    "drives": tuple(range(200, 205)),
    "indoor": tuple(range(200, 205)),
}
TUNING_SEEDS: dict[Domain, tuple[int, ...]] = {
    "spiral": tuple(range(900, 906)),
    "digits": (900, 901, 902),
    "drives": (900, 901),
}
DEFAULT = "UBN"  # the ingredients' baseline: UBN as `convert_ubn` makes it
PLAIN = "BN"  # the peers' baseline
REFRESHED = "BN, refreshed"  # the peer that is judged by its refreshed statistics
MANY = {"drives": 64, "indoor": 64}  # frames that stand for the population, where all are too many


def ingredients(domain: Domain) -> dict[str, dict[str, Method]]:
    """Return, for each ingredient, the methods that differ in it; UBN's defaults are in none.

    Args:
        domain: Sizes of batches depend on it.
    """
    base = BASE[domain]
    population = MANY.get(domain, "all")

    def alone(pool: str, number: int | str) -> Method:
        """Normalize by rows other than the step's labeled ones, from one pool."""
        return Method(norm=UBN(unlabeled_weight=1), rows=Rows(pool=pool, number=number))

    return {
        "gradient": {
            name: Method(norm=UBN(stats_grad=name)) for name in ("none", "labeled", "all")
        },
        "source": {
            f"averages {momentum}": Method(norm=UBN(source="running", momentum=momentum))
            for momentum in (0.1, 0.01)
        },
        "momentum": {
            f"momentum {momentum}": Method(norm=UBN(momentum=momentum)) for momentum in (0.3, 0.01)
        },
        "average of": {"sigma": Method(norm=UBN(running_stat="std"))},
        "weight": {
            f"weight {weight}": Method(norm=UBN(unlabeled_weight=weight))
            for weight in (0.25, 0.5, 0.75, 1.0)
        },
        "number": {
            f"{factor} x": Method(norm=UBN(), rows=Rows(number=int(factor * base.other_batch)))
            for factor in (0.5, 2, 4)
        },
        "freshness": {
            "fixed": Method(norm=UBN(), rows=Rows(fresh=False)),
            "labeled again": Method(norm=UBN(), rows=Rows(pool="labeled")),
        },
        "layers": {
            where: Method(norm=UBN(where=where))
            for where in ("first", "last", "first half", "second half")
        },
        "bias and noise": {
            "labeled, batch": alone("labeled", base.labeled_batch),
            "labeled, all": alone("labeled", "all"),
            "everything, batch": alone("everything", base.labeled_batch),
            "everything, all": alone("everything", population),
        },
        "distribution": {"other": Method(norm=UBN(), rows=Rows(pool="other"))},
    }


Trial = tuple[Method, dict[str, Any]]  # a method, and what differs from the domain's setting


class Peer(NamedTuple):
    """A method with the values that tuning may choose from; the first is the usual one."""

    trials: tuple[Trial, Trial, Trial]
    metric: str = "accuracy"


def peers(domain: Domain) -> dict[str, Peer]:
    """Return all methods that are compared after tuning, each with three choices of its own."""
    batch = BASE[domain].labeled_batch

    def by_batch(method: Method, metric: str = "accuracy") -> Peer:
        sizes = (batch, batch // 2, 2 * batch)
        return Peer(tuple((method, {"labeled_batch": size}) for size in sizes), metric)

    def by(*methods: Method) -> Peer:
        return Peer(tuple((method, {}) for method in methods))

    half = batch // 2
    found = {
        PLAIN: by_batch(Method()),
        REFRESHED: by_batch(Method(), "refreshed_accuracy"),
        "BN, averages see unlabeled": by_batch(Method(averages_see=True)),
        DEFAULT: by_batch(Method(norm=UBN())),
        "UBN, joint gradient": by_batch(Method(norm=UBN(stats_grad="all"))),
        "Ghost BN": Peer(
            (
                (Method(norm=Ghost(ghost=half)), {}),
                (Method(norm=Ghost(ghost=half)), {"labeled_batch": 2 * batch}),
                (Method(norm=Ghost(ghost=batch)), {"labeled_batch": 2 * batch}),
            )
        ),
        "Batch Renorm": by(
            *(Method(norm=Renorm(r_max=r, d_max=d)) for r, d in ((3, 5), (1.5, 0.5), (10, 10)))
        ),
        "GroupNorm": by(*(Method(norm=Group(per_group=size)) for size in (8, 4, 16))),
        "LayerNorm": by_batch(Method(norm=Group())),
        "InstanceNorm": by_batch(Method(norm=Group(per_group=1))),
        "BN, dropout": by(*(Method(dropout=rate) for rate in (0.1, 0.05, 0.3))),
        "mean teacher": by(*(Method(teacher=Teacher(weight=w)) for w in (1, 0.3, 3))),
        "mean teacher, Split BN": by(
            *(Method(norm=Split(), teacher=Teacher(weight=w)) for w in (1, 0.3, 3))
        ),
    }
    if domain == "spiral":  # one number a channel has no statistics of its own
        del found["InstanceNorm"]
    return found


RATES = (1.0, 1 / 3, 3.0)  # of the domain's learning rate


def configured(
    domain: Domain,
    method: Method,
    change: Mapping[str, Any],
    *,
    stage: str,
    data: str = "",
    ingredient: str = "",
    name: str = "",
) -> AblationConfig:
    """Return a run with all seeds of its stage.

    Args:
        domain: On what.
        method: What.
        change: What differs from the domain's setting.
        stage: "tuning" or "claims".
        data: Fingerprint of the frames, for depth.
        ingredient: What the run is for.
        name: Its name there.
    """
    seeds = CLAIM_SEEDS[domain] if stage == "claims" else TUNING_SEEDS[domain]
    setting = Setting(**BASE[domain].model_dump() | dict(change))
    return AblationConfig(
        domain=domain,
        stage=stage,
        ingredient=ingredient,
        name=name,
        data=data,
        method=method,
        setting=setting,
        seeds=seeds,
    )


def claimed(
    domain: Domain, choices: Mapping[str, Trial], *, data: str = ""
) -> list[AblationConfig]:
    """Return all runs that conclusions on a domain rest on.

    The tuned methods are those of the ingredient "peers"; those of "baselines" have the domain's
    setting, which the ingredients share.

    Args:
        domain: On what.
        choices: The peers as tuning left them; see `experiments.ablation.tuning.tune`.
        data: Fingerprint of the frames, for depth.
    """
    fixed = {
        "baselines": {DEFAULT: Method(norm=UBN()), PLAIN: Method()},
        **ingredients(domain),
    }
    cells = [
        (ingredient, name, method, {})
        for ingredient, methods in fixed.items()
        for name, method in methods.items()
    ]
    cells += [("peers", name, method, change) for name, (method, change) in choices.items()]
    runs = [
        configured(
            domain,
            method,
            {**change, "labels": labels},
            stage="claims",
            data=data,
            ingredient=ingredient,
            name=name,
        )
        for labels in LABELS[domain]
        for ingredient, name, method, change in cells
    ]
    # A study that is stopped has what matters most: all with the fewest labels, then the peers.
    few = LABELS[domain][0]
    return sorted(
        runs, key=lambda r: r.setting.labels != few and r.ingredient not in ("baselines", "peers")
    )


def afterwards(domain: Domain, *, data: str = "") -> list[AblationConfig]:
    """Return runs that the plan did not have: BN in depth with the batch that tuning gave UBN.

    Args:
        domain: On what; other domains have none.
        data: Fingerprint of the frames.
    """
    if domain not in MANY:
        return []
    base = BASE[domain]
    batch = 2 * base.labeled_batch
    change = {"labeled_batch": batch, "learning_rate": RATES[2] * base.learning_rate}
    change["labels"] = LABELS[domain][0]
    what = dict(ingredient="after the fact", name=f"BN, batch {batch}")
    return [configured(domain, Method(), change, stage="claims", data=data, **what)]


def smaller(config: AblationConfig, seeds: int, steps: int) -> AblationConfig:
    """Return a run with fewer seeds and steps, for a quick look."""
    setting = config.setting.model_copy(update={"steps": min(steps, config.setting.steps)})
    return config.model_copy(update={"setting": setting, "seeds": config.seeds[:seeds]})
