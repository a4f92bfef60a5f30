"""The plan of the depth study, behind Figure 6: arms, domains, and the runs of each stage.

docs/depth_study.md says why, and what came out.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from experiments.common.records import Config
from experiments.common.training import BNConfig
from experiments.depth.config import DepthConfig, NormConfig, UBNForm
from experiments.depth.constant_map import ConstantMapConfig
from experiments.depth.data import (
    INDOOR,
    DepthData,
    DrawnLabels,
    EveryLabels,
    LabelsConfig,
    PlacesLabels,
    rendered_drives,
)
from experiments.depth.engine import EngineConfig
from experiments.depth.literal_failure import CancellationConfig
from experiments.depth.rgbd_data import read_description, rgbd_data

# --- what is compared -----------------------------------------------------------------------------


class Arm(NamedTuple):
    """A method, and what it changes in a domain's setting; factors multiply the setting's own."""

    norm: NormConfig = BNConfig()
    options: Mapping[str, Any] = {}  # fields of `DepthConfig`
    rate: float | None = None  # None: the domain's
    steps: float = 1.0  # factor
    batch: int = 1  # factor


LITERAL = UBNForm(stats_grad="none")
MAIN: dict[str, Arm] = {
    "BN": Arm(),
    "UBN": Arm(UBNForm()),
    # As many rows in the statistics as UBN has, and no new image in them.
    "BN, labeled again": Arm(UBNForm(), {"unlabeled_from": "labeled"}),
    # A labeled batch as large as both of UBN's.
    "BN, equal work": Arm(batch=2),
}
READINGS: dict[str, Arm] = {  # other ways to read the paper's text
    "UBN, literal": Arm(LITERAL),
    "UBN, literal, the paper's rate": Arm(LITERAL, rate=2e-4, steps=4.0),
    "UBN, literal after BN": Arm(LITERAL, {"warmup": 0.5}),
    "UBN, joint": Arm(UBNForm(stats_grad="all")),
    "UBN, averages 0.1": Arm(UBNForm(stats_grad="none", source="running", momentum=0.1)),
    "UBN, averages 0.01": Arm(UBNForm(stats_grad="none", source="running", momentum=0.01)),
    "UBN, averages 0.001": Arm(UBNForm(stats_grad="none", source="running", momentum=0.001)),
    "BN, averages see both": Arm(UBNForm(averages_only=True)),
    # If BN's epochs are of labeled images and UBN's of all, BN with 1/k of the labels has 1/k of
    # the steps; here an eighth, where 1/128 would be eight steps.
    "BN, an eighth of the steps": Arm(steps=1 / 8),
}
ARMS = MAIN | READINGS

# --- where ----------------------------------------------------------------------------------------


OTHERS = 5  # seeds of what a domain gives no number


class Domain(NamedTuple):
    """Frames of the study, and how nets are trained on them, the same for all arms.

    But for the learning rate, where pilots found another one than that of `options` best.
    """

    few: int  # claims are about one depth map in so many ...
    shares: tuple[int, ...]  # ... and Figure 6 about these
    labels: Callable[[int, int], LabelsConfig]  # by share and seed: others for k seeds in a row
    places: int  # blocks of the training frames that labels may be from, for the map
    options: Mapping[str, Any]
    # For the pilots or for claims, of a fold; None for what notebook 3 alone runs.
    load: Callable[[argparse.Namespace, bool, int], DepthData] | None
    recorded_as: str | None = None  # None: by its own name
    first_seed: int = 0  # of the claims
    seeds: int = 10  # of BN and UBN at the few labels
    controls: int = 10  # of BN with labeled images again
    ceilings: int = 5  # of what claims require: BN with all labels ...
    sensitive: int = 5  # ... and with four times the few
    more: Mapping[str | int, int] = {}  # of other arms and shares; else `OTHERS`
    folds: int = 1  # by place; seed s tests on fold s modulo their number
    rates: Mapping[str, float] = {}  # of an arm at the few labels
    share_rates: Mapping[int, float] = {}  # of BN with one depth map in so many
    pilot_rates: tuple[float, ...] = (1e-3, 3e-3)
    pilot_seeds: int = 1


def _drawn(k: int, seed: int) -> LabelsConfig:
    return DrawnLabels(k=k, seed=seed)


def _phase(k: int, seed: int) -> LabelsConfig:
    return EveryLabels(k=k, phase=seed * 37 % k)  # 37: a phase for each of k seeds


def _every(k: int, seed: int) -> LabelsConfig:
    return EveryLabels(k=k)


def load_drives(arguments: argparse.Namespace, pilots: bool, fold: int) -> DepthData:
    """Return the pilots' drives or the claims', rendered and packed if need be."""
    form = dict(drives=64, frames=128, scale=0.13, azimuth_steps=800)
    return rendered_drives(arguments.data, 3 if pilots else 2, (48, 160), **form)


def load_folder(name: str, size: tuple[int, int]) -> Callable[..., DepthData]:
    """Return what loads a folder of RGB-D frames, by its folds if it has any: docs/rgbd.md."""

    def load(arguments: argparse.Namespace, pilots: bool, fold: int) -> DepthData:
        if arguments.rgbd_root is None:
            raise ValueError(f"The {name} are a folder of real frames: give --rgbd-root.")
        description = read_description(name)
        return rgbd_data(
            arguments.rgbd_root, size, description, fold if description.folds else None
        )

    return load


# All arms alike, and ours: the loss, the schedule, mirrored images and the small start.
SHARED: dict[str, Any] = dict(
    width=0.5, levels=5, loss="log_l1", schedule="cosine", mirror=True, start=0.1,
)  # fmt: skip
BATCH = dict(labeled_batch=16, unlabeled_batch=16)
DRIVES = Domain(
    128, (128, 32, 8, 2, 1), _phase, 48,
    dict(learning_rate=1e-2, steps=2000, width=0.25), load_drives,
    first_seed=21,
    seeds=20,  # estimated at ten of the first rate, from the spread of the differences
    ceilings=10,  # estimated again at five, from how far they were above six points
    more={"BN, equal work": 10, 2: 10},  # estimated at five of the first rate, likewise
    rates={"BN, equal work": 3e-2}, share_rates={1: 3e-3},
    pilot_rates=(3e-3, 1e-2, 3e-2), pilot_seeds=3,
)  # fmt: skip
DOMAINS = {
    "rooms": Domain(
        16, (32, 16, 8, 4, 2, 1), _drawn, 48,
        dict(learning_rate=1e-3, steps=1000, **INDOOR), load_folder("rooms", (72, 96)),
        share_rates={1: 3e-3},
        ceilings=25,  # estimated again at eight, from how far they were above what is required
    ),
    "drives": DRIVES,
    # At the first rate, of pilots in another setting; seed 0 was that setting's.
    "drives-first": DRIVES._replace(
        shares=(128, 64, 32, 16, 8, 4, 2, 1),
        options=dict(DRIVES.options) | dict(learning_rate=3e-3),
        recorded_as="drives", first_seed=1, ceilings=5, more={}, rates={}, share_rates={},
    ),
    "streets": Domain(
        4, (4, 2, 1), _drawn, 10,  # one in 8 would be fewer than a batch
        dict(learning_rate=3e-3, steps=500, width=0.25), load_folder("streets", (48, 160)),
        folds=5,
    ),
    "kitti": Domain(  # the paper's own numbers
        128, (128, 64, 32, 16, 8, 4, 2, 1), _every, 48,
        dict(
            loss="l1", schedule="constant", mirror=False, start=1.0, learning_rate=2e-4,
            steps=52880,
        ),
        None,
    ),
    "kitchen": Domain(
        32, (32, 16, 4, 1), _phase, 10,
        dict(learning_rate=3e-3, steps=500, **INDOOR), load_folder("kitchen", (48, 64)),
        first_seed=5,  # the five before were a trial, whose spread says how many are needed
        seeds=50, controls=25, ceilings=15, sensitive=15,
        rates={
            "BN": 3e-2, "BN, equal work": 3e-2, "BN, an eighth of the steps": 3e-2,
            "BN, labeled again": 1e-2,
        },
        share_rates={1: 3e-3, 8: 1e-2},
        pilot_rates=(1e-3, 3e-3, 1e-2, 3e-2), pilot_seeds=5,
    ),
}  # fmt: skip


def study_run(
    domain: str, arm: str, data: str, seed: int, k: int | None = None, **changes: Any
) -> DepthConfig:
    """Return a run of an arm with one depth map in k, the domain's few if None."""
    where, what = DOMAINS[domain], ARMS[arm]
    fields = dict(SHARED) | BATCH | dict(where.options) | dict(what.options) | changes
    if "learning_rate" not in changes:
        rate = what.rate or where.rates.get(arm, fields["learning_rate"])
        fields["learning_rate"] = where.share_rates.get(k, rate) if arm == "BN" else rate
    fields["steps"] = round(fields["steps"] * what.steps)
    fields["labeled_batch"] *= what.batch
    fields.setdefault("labels", where.labels(where.few if k is None else k, seed))
    fields.setdefault("engine", EngineConfig.fastest())
    named = dict(domain=where.recorded_as or domain, arm=arm, norm=what.norm)
    return DepthConfig(data=data, seed=seed, **named, **fields)


def constant_map(domain: str, data: str, seed: int, k: int) -> ConstantMapConfig:
    """Return the run of the map that looks at no image, from the same labels."""
    where = DOMAINS[domain]
    named = dict(domain=where.recorded_as or domain, labels=where.labels(k, seed))
    return ConstantMapConfig(data=data, seed=seed, **named)


# --- the stages of the study ----------------------------------------------------------------------

PILOT_SEED = 9000
Plan = Iterator[DepthConfig | ConstantMapConfig]


def seeds_of(domain: str, number: int) -> range:
    """Return so many seeds of a domain's claims."""
    first = DOMAINS[domain].first_seed
    return range(first, first + number)


def plan_pilots(domain: str, data: str) -> Plan:
    """Plan what fixes each arm's rate, by equal trials, and shows whether labels matter."""
    where = DOMAINS[domain]
    for k in (1, where.few):
        yield constant_map(domain, data, PILOT_SEED, k)
    seeds = range(PILOT_SEED, PILOT_SEED + where.pilot_seeds)
    for rate, seed in itertools.product(where.pilot_rates, seeds):
        for k in (1, max(1, where.few // 4)):
            yield study_run(domain, "BN", data, seed, k=k, learning_rate=rate)
        for arm in MAIN:
            yield study_run(domain, arm, data, seed, learning_rate=rate)


def plan_claims(domain: str, data: str) -> Plan:
    """Plan the claims at the few labels, seed after seed; the first ones show what they require."""
    where = DOMAINS[domain]
    few = where.few
    pairs, controls = where.seeds, where.controls
    arms = (("BN", pairs), ("UBN", pairs), ("BN, labeled again", controls))
    required = ((1, where.ceilings), (max(1, few // 4), where.sensitive))
    for done, seed in enumerate(seeds_of(domain, max(pairs, where.ceilings))):
        for k in (1, few)[: 2 if done < pairs else 1]:
            yield constant_map(domain, data, seed, k)
        for arm, number in arms:
            if done < number:
                yield study_run(domain, arm, data, seed)
        for k, number in required:
            if done < number:
                yield study_run(domain, "BN", data, seed, k=k)


def plan_arms(domain: str, data: str) -> Plan:
    """Plan the other readings of the text, and BN with as much work as UBN."""
    for arm in ("BN, equal work", *READINGS):
        for seed in seeds_of(domain, DOMAINS[domain].more.get(arm, OTHERS)):
            yield study_run(domain, arm, data, seed)


def plan_figure6(domain: str, data: str) -> Plan:
    """Plan Figure 6 at the other shares."""
    for k in DOMAINS[domain].shares:
        for seed in seeds_of(domain, DOMAINS[domain].more.get(k, OTHERS)):
            yield constant_map(domain, data, seed, k)
            for arm in ("BN", "UBN")[: 1 if k == 1 else 2]:  # with all labels they are one
                yield study_run(domain, arm, data, seed, k=k)


def plan_map(domain: str, data: str) -> Plan:
    """Plan the map of where UBN helps: labeled batch, and labels from few places only."""
    where = DOMAINS[domain]
    places = max(where.places // 8, -(-where.places // where.few))  # that hold so many labels
    for seed in seeds_of(domain, OTHERS):
        spread = where.labels(where.few, seed)
        biased = PlacesLabels(k=where.few, places=places, of=where.places, seed=seed)
        for labels in (spread, biased):
            for batch in (2, 4, 8, BATCH["labeled_batch"]):
                for arm in ("BN", "UBN"):
                    yield study_run(domain, arm, data, seed, labels=labels, labeled_batch=batch)


REPAIRS: dict[str, NormConfig] = {  # parts of the literal gradient that the next step cancels
    "literal": LITERAL,
    "literal, no common shift": UBNForm(stats_grad="none", repair="shift"),
    "literal, no common scale": UBNForm(stats_grad="none", repair="scale"),
    "literal, neither": UBNForm(stats_grad="none", repair="both"),
    "corrected": UBNForm(),
}


def plan_failure(domain: str, data: str) -> Iterator[CancellationConfig]:
    """Plan the runs whose steps are measured, which is done in float32."""
    base = study_run(domain, "UBN", data, PILOT_SEED, steps=200, schedule="constant")
    for name, norm in REPAIRS.items():
        changes = dict(arm=name, norm=norm, engine=EngineConfig(channels_last=True), evaluations=10)
        options = base.model_dump(exclude={"experiment"}) | changes
        yield CancellationConfig(**options)


STAGE_PLANS: dict[str, Callable[[str, str], Iterator[Config]]] = {
    "failure": plan_failure,
    "pilots": plan_pilots,
    "claims": plan_claims,
    "arms": plan_arms,
    "figure6": plan_figure6,
    "map": plan_map,
}
