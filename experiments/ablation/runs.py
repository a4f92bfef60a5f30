"""The runs of the ablation: ingredients one at a time, and peers under one budget of tuning.

docs/ablation_study.md says why. A run is a method and a setting under a name. `STAGES` are the
study's, by domain; a stopped one goes on where it was.
"""

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.ablation.domains import Scenes
from experiments.ablation.methods import (
    UBN,
    AblationConfig,
    Domain,
    Ghost,
    Group,
    Method,
    Renorm,
    Rows,
    Setting,
    Split,
    Teacher,
)
from experiments.ablation.train import run_ablation
from experiments.common.parallel import obtain_all
from experiments.common.records import Experiment, PlannedRun, Record, read_record, record_path
from experiments.depth.data import INDOOR, rendered_drives
from experiments.depth.rgbd_data import rgbd_data

EXPERIMENTS = {"ablation": Experiment(AblationConfig, run_ablation)}

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
# The two sets of synthetic drives, which share none, by the renderer's seed.
SEARCH, CLAIMS = 1, 0
DEFAULT = "UBN"  # the ingredients' baseline: UBN as `convert_ubn` makes it
PLAIN = "BN"  # the peers' baseline
REFRESHED = "BN, refreshed"  # the peer that is judged by its refreshed statistics
MANY = {"drives": 64, "indoor": 64}  # frames that stand for the population, where all are too many


def ingredients(domain: Domain) -> dict[str, dict[str, Method]]:
    """Return, for each ingredient, the methods that differ in it; UBN's defaults are in none."""
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
    domain: Domain, method: Method, change: Mapping[str, Any], *, stage: str, **names: str
) -> AblationConfig:
    """Return a run with all seeds of its stage; `change` is what differs from the usual setting."""
    seeds = CLAIM_SEEDS[domain] if stage == "claims" else TUNING_SEEDS[domain]
    setting = Setting(**BASE[domain].model_dump() | dict(change))
    what = dict(domain=domain, method=method, setting=setting, stage=stage, seeds=seeds)
    return AblationConfig(**what, **names)


def claimed(
    domain: Domain, choices: Mapping[str, Trial], *, data: str = ""
) -> list[AblationConfig]:
    """Return all runs that conclusions on a domain rest on.

    The peers, as tuning left them in `choices`, are those of the ingredient "peers"; those of
    "baselines" have the domain's setting, which the ingredients share.
    """
    fixed = {"baselines": {DEFAULT: Method(norm=UBN()), PLAIN: Method()}, **ingredients(domain)}
    cells = [
        (ingredient, name, method, {})
        for ingredient, methods in fixed.items()
        for name, method in methods.items()
    ]
    cells += [("peers", name, method, change) for name, (method, change) in choices.items()]
    runs = [
        configured(
            domain, method, {**change, "labels": labels},
            stage="claims", data=data, ingredient=ingredient, name=name,
        )
        for labels in LABELS[domain]
        for ingredient, name, method, change in cells
    ]  # fmt: skip
    # A study that is stopped has what matters most: all with the fewest labels, then the peers.
    few = LABELS[domain][0]
    return sorted(
        runs, key=lambda r: r.setting.labels != few and r.ingredient not in ("baselines", "peers")
    )


def afterwards(domain: Domain, *, data: str = "") -> list[AblationConfig]:
    """Return runs that the plan did not have: BN in depth with the batch that tuning gave UBN."""
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
    run = config.model_copy(update={"setting": setting, "seeds": config.seeds[:seeds]})
    return AblationConfig.model_validate(run.model_dump())  # no run has no seed and no step


Obtain = Callable[[Sequence[AblationConfig]], Sequence[Record]]  # records in the runs' order


def tune(domain: Domain, obtain: Obtain, *, data: str = "") -> dict[str, Trial]:
    """Return the best of each peer's five trials: its method, and what differs in the setting.

    All peers have the same budget: three learning rates, then two other choices of their own.
    """
    found = peers(domain)

    def best(trials: Mapping[str, Sequence[Trial]]) -> dict[str, Trial]:
        """Return each peer's trial with the highest mean of its metric, the first of equal ones."""
        configs = {
            name: [configured(domain, *trial, stage="tuning", data=data) for trial in some]
            for name, some in trials.items()
        }
        records = obtain([config for some in configs.values() for config in some])
        metrics = {record.key: record.metrics for record in records}
        scores = {
            name: [np.mean(metrics[config.key][found[name].metric]) for config in some]
            for name, some in configs.items()
        }
        return {name: some[int(np.argmax(scores[name]))] for name, some in trials.items()}

    rates = [{"learning_rate": rate * BASE[domain].learning_rate} for rate in RATES]
    first = {
        name: [(method, {**change, **rate}) for rate in rates]
        for name, peer in found.items()
        for method, change in peer.trials[:1]
    }
    at = {name: (trial, trial[1]["learning_rate"]) for name, trial in best(first).items()}
    return best(
        {
            name: [trial, *((m, {**c, "learning_rate": rate}) for m, c in found[name].trials[1:])]
            for name, (trial, rate) in at.items()
        }
    )


def reader(folder: Path | str) -> Obtain:
    """Return what reads the records of configurations from a folder, and makes none."""
    return lambda configs: [read_record(record_path(config, folder)) for config in configs]


# What notebook 4 runs


def sample_runs(
    tuning: Path | str,
    *,
    domains: Sequence[Domain],
    ingredients: Sequence[str] = (),
    seeds: int,
    steps: int,
) -> list[AblationConfig]:
    """Return runs that the study's claims rest on, made smaller; its own where nothing is cut.

    The records in the folder `tuning` say how each peer is set. Domains are those without frames;
    no ingredient named means all.

    Raises:
        ValueError: There is no such ingredient, or no run of such a size.
    """
    runs = [
        smaller(config, seeds, steps)
        for domain in domains
        for config in claimed(domain, tune(domain, reader(tuning)))
    ]
    known = list(dict.fromkeys(run.ingredient for run in runs))
    if unknown := sorted(set(ingredients) - set(known)):
        raise ValueError(f"There is no ingredient {unknown[0]!r}; there are: {', '.join(known)}.")
    return [run for run in runs if not ingredients or run.ingredient in ingredients]


def notebook_runs(parameters: Mapping[str, Any], data: str = "") -> list[PlannedRun]:
    """Return all runs that notebook 4 needs, from its parameters."""
    names = ("domains", "ingredients", "seeds", "steps")
    tuning = Path(parameters["study"]) / "ablation_tuning"
    return [
        PlannedRun(
            f"ablation, {run.domain}, {run.ingredient}, {run.name}, {run.setting.labels} labels",
            run,
        )
        for run in sample_runs(tuning, **{name: parameters[name] for name in names})
    ]


# The study


def study(domain: Domain, arguments: argparse.Namespace) -> None:
    """Tune the peers of a domain, then make the records that its claims rest on.

    `indoor` takes the choices of `drives`.
    """

    def making(scenes: Scenes | None, folder: str) -> Obtain:
        """Return what makes the records that are missing in a folder."""
        return functools.partial(
            obtain_all,
            run=functools.partial(run_ablation, scenes=scenes),
            folder=arguments.results / folder,
            processes=arguments.processes,
            progress=f"{domain}, {folder}",
        )

    if domain == "indoor" and arguments.rgbd_root is None:  # before hours of tuning
        raise ValueError("The indoor domain needs a folder: --rgbd-root (docs/rgbd.md).")
    tuned, folder = "drives" if domain == "indoor" else domain, "ablation_tuning"
    scenes, data = _scenes(tuned, SEARCH, arguments)
    choices = tune(tuned, making(scenes, folder), data=data)
    scenes, data = _scenes(domain, CLAIMS, arguments)
    making(scenes, "records")(claimed(domain, choices, data=data))
    making(scenes, "ablation_after")(afterwards(domain, data=data))


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    domain: functools.partial(study, domain) for domain in BASE
}


def _scenes(domain: Domain, seed: int, arguments: argparse.Namespace) -> tuple[Scenes | None, str]:
    """Return the frames of a depth domain, others beside them, and the frames' fingerprint."""
    form = dict(drives=32, frames=128, scale=0.125)
    drives = functools.partial(rendered_drives, arguments.data, **form)
    if domain == "drives":
        data, other = (drives(number, (24, 80)) for number in (seed, 1 - seed))
        return Scenes(data, other.frames, {}), data.fingerprint
    if domain == "indoor":
        size = (36, 48)
        data = rgbd_data(arguments.rgbd_root, size, "kitchen")
        other = drives(CLAIMS, size)
        return Scenes(data, other.frames, INDOOR), data.fingerprint
    return None, ""
