"""The runs behind section 3.3: which configurations each of its figures rests on."""

from collections.abc import Mapping
from typing import Any

from experiments.common.records import Config
from experiments.common.training import BNConfig, UBNConfig
from experiments.toy import regimes
from experiments.toy.augmentation_study import AugmentationConfig
from experiments.toy.feature_study import FeaturesConfig
from experiments.toy.train import SpiralConfig
from experiments.toy.uncertainty_methods import UncertaintyConfig

METHODS = {"BN": BNConfig(), "UBN": UBNConfig()}

# Ways to doubt a prediction, and what each resamples.
UNCERTAINTY = {
    "bn": None,
    "mc_bn": "samples",
    "mc_dropout": "samples",
    "bn_ensemble": "nets",
    "ubn": None,
    "mc_ubn": "samples",
    "ubn_ensemble": "nets",
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
    "readings and labeled batch": (
        list(regimes.READINGS),
        dict(labeled_batch=[8, 16, 32, 50]),
    ),
}


def toy_setting(
    *,
    seeds: int,
    first_seed: int = 0,
    steps: int,
    noise: float,
    labeled_per_class: int,
    unlabeled_per_class: int,
) -> dict[str, Any]:
    """Return what all runs of the toy share, as keywords of their configurations.

    Args:
        seeds: How many, each with its own labeled points, weights and batches.
        first_seed: The first of them.
        steps: Optimizer steps.
        noise: Half-width of the uniform noise on each point.
        labeled_per_class: Points.
        unlabeled_per_class: Points.
    """
    return dict(
        seeds=tuple(range(first_seed, first_seed + seeds)),
        steps=steps,
        noise=noise,
        labeled_per_class=labeled_per_class,
        unlabeled_per_class=unlabeled_per_class,
    )


def toy_runs(
    setting: Mapping[str, Any],
    *,
    uncertainty_samples: int,
    ensemble_nets: int,
    with_ubn_ensemble: bool,
    augmentations: int,
) -> dict[str, dict[str, Config]]:
    """Return all runs of the toy but those of the maps, by what they are for and by method.

    Args:
        setting: As `toy_setting` returns it.
        uncertainty_samples: Resampled batches, or dropout masks, behind Figure 4.
        ensemble_nets: Nets of a deep ensemble.
        with_ubn_ensemble: Whether to have an ensemble of UBN nets too.
        augmentations: Changes of statistics behind Figure 5.
    """
    everything = dict(
        labeled_batch=2 * setting["labeled_per_class"],
        unlabeled_batch=2 * setting["unlabeled_per_class"],
    )
    samples = {"samples": uncertainty_samples, "nets": ensemble_nets}
    return {
        "training": {name: SpiralConfig(norm=norm, **setting) for name, norm in METHODS.items()},
        "features": {name: FeaturesConfig(norm=norm, **setting) for name, norm in METHODS.items()},
        "steps of all points": {
            name: SpiralConfig(norm=norm, **{**setting, **everything})
            for name, norm in METHODS.items()
        },
        "labeled for unlabeled": {
            "UBN": SpiralConfig(norm=METHODS["UBN"], unlabeled_from="labeled", **setting)
        },
        "uncertainty": {
            method: UncertaintyConfig(
                method=method, **setting, **({"samples": samples[of]} if of else {})
            )
            for method, of in UNCERTAINTY.items()
            if with_ubn_ensemble or method != "ubn_ensemble"
        },
        "augmentation": {
            name: AugmentationConfig(norm=norm, changes=augmentations, **setting)
            for name, norm in METHODS.items()
        },
    }


def map_pairs() -> dict[str, list[regimes.Pair]]:
    """Return the pairs of runs behind each map, by title; see `regimes.pairs`."""
    base = SpiralConfig(seeds=tuple(range(15)))
    return {title: regimes.pairs(base, some, **given) for title, (some, given) in MAPS.items()}
