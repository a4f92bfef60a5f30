"""The runs behind section 3.3: which configurations each of its figures rests on."""

from collections.abc import Mapping
from typing import Any

from experiments.common.records import Config, Experiment, PlannedRun
from experiments.common.training import BNConfig, NormConfig, UBNConfig
from experiments.toy import regime_map
from experiments.toy.figure3_features import FeaturesConfig, run_features
from experiments.toy.figure4_uncertainty import UncertaintyConfig, run_uncertainty
from experiments.toy.figure5_augmentation import AugmentationConfig, run_augmentation
from experiments.toy.figure5_boundary import BoundaryConfig, run_boundary
from experiments.toy.train import SpiralConfig, run_spiral

EXPERIMENTS = {
    "spiral": Experiment(SpiralConfig, run_spiral),
    "spiral_features": Experiment(FeaturesConfig, run_features),
    "spiral_uncertainty": Experiment(UncertaintyConfig, run_uncertainty),
    "spiral_augmentation": Experiment(AugmentationConfig, run_augmentation),
    "spiral_boundary": Experiment(BoundaryConfig, run_boundary),
}

METHODS = {"BN": BNConfig(), "UBN": UBNConfig()}
LITERAL = "UBN, literal"  # the two steps as the text has them

# Ways to doubt a prediction, and which of the notebook's parameters says how many it has.
UNCERTAINTY = {
    "bn": None,
    "mc_bn": "uncertainty_samples",
    "mc_dropout": "uncertainty_samples",
    "bn_ensemble": "ensemble_nets",
    "ubn": None,
    "mc_ubn": "uncertainty_samples",
    "ubn_ensemble": "ensemble_nets",
}

# The maps of where UBN is ahead, by title: readings, and the settings that change.
MAPS: dict[str, tuple[list[str], dict[str, list]]] = {
    "labels and noise": (
        ["corrected"],
        dict(labeled_per_class=[5, 10, 25, 50, 100, 200], noise=[0.0, 0.25, 0.5]),
    ),
    "batch sizes and learning rate": (
        ["corrected"],
        dict(
            batch=[(8, 64), (16, 64), (32, 64), (50, 64), (32, 16), (32, 400)],
            learning_rate=[0.001, 0.01],
        ),
    ),
    "readings and labeled batch": (list(regime_map.READINGS), dict(labeled_batch=[8, 16, 32, 50])),
}


def notebook_runs(parameters: Mapping[str, Any], data: str = "") -> list[PlannedRun]:
    """List the runs of notebook 2: those of the figures, then those of the maps."""
    runs = [
        PlannedRun(f"spiral, {purpose}, {method}", config)
        for purpose, some in toy_runs(parameters).items()
        for method, config in some.items()
    ]
    if parameters["make_regimes"]:
        for title, pairs in map_pairs().items():
            for pair in pairs:
                cell = ", ".join(f"{name} {value}" for name, value in pair.setting.items())
                runs.append(PlannedRun(f"spiral, {title}: {cell}", pair.ubn, "regimes"))
                runs.append(PlannedRun(f"spiral, {title}: BN, {cell}", pair.bn, "regimes"))
    return runs


def toy_runs(parameters: Mapping[str, Any]) -> dict[str, dict[str, Config]]:
    """Return all runs of the toy but those of the maps, by what they are for and by method.

    The parameters are the notebook's, which says what each is.
    """
    first = parameters["first_seed"]
    points = ("labeled_per_class", "unlabeled_per_class")
    setting = {name: parameters[name] for name in ("steps", "noise", *points)}
    setting["seeds"] = tuple(range(first, first + parameters["seeds"]))
    labeled, unlabeled = (2 * setting[name] for name in points)

    def of_all(norm: NormConfig, others: int = 64, **more: Any) -> SpiralConfig:
        """Return a run whose steps have all labeled points: its labeled rows make no noise."""
        sizes = dict(labeled_batch=labeled, unlabeled_batch=others)
        return SpiralConfig(norm=norm, **sizes, **more, **setting)

    ubn = METHODS["UBN"]
    fresh = tuple(range(first + 100, first + 100 + parameters["boundary_seeds"]))
    boundaries = {
        **{name: SpiralConfig(norm=norm, **setting) for name, norm in METHODS.items()},
        "statistics change": of_all(ubn),
        "statistics do not change": of_all(ubn, unlabeled),
    }
    return {
        "training": {name: SpiralConfig(norm=norm, **setting) for name, norm in METHODS.items()},
        "labeled batches": {
            f"{name}, {batch}": SpiralConfig(norm=norm, labeled_batch=batch, **setting)
            for name, norm in {**METHODS, LITERAL: UBNConfig(stats_grad="none")}.items()
            for batch in parameters["labeled_batches"]
        },
        "features": {name: FeaturesConfig(norm=norm, **setting) for name, norm in METHODS.items()},
        "all labeled points": {
            "BN": of_all(METHODS["BN"]),
            "UBN": of_all(ubn),
            "UBN, all unlabeled": of_all(ubn, unlabeled),
            "labeled rows again": of_all(ubn, max(2, labeled // 2), unlabeled_from="labeled"),
        },
        "uncertainty": {
            method: UncertaintyConfig(
                method=method, **setting, **({"samples": parameters[many]} if many else {})
            )
            for method, many in UNCERTAINTY.items()
            if parameters["with_ubn_ensemble"] or method != "ubn_ensemble"
        },
        "augmentation": {
            name: AugmentationConfig(norm=norm, changes=parameters["augmentations"], **setting)
            for name, norm in METHODS.items()
        },
        "boundary": {
            name: BoundaryConfig(**config.model_dump(exclude={"experiment"}) | {"seeds": fresh})
            for name, config in boundaries.items()
        },
    }


def map_pairs() -> dict[str, list[regime_map.Pair]]:
    """Return the pairs of runs behind each map, by title; see `regime_map.pairs`."""
    base = SpiralConfig(seeds=tuple(range(15)))
    return {title: regime_map.pairs(base, some, **given) for title, (some, given) in MAPS.items()}
