"""Which class configures each experiment, and which function makes its record."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

from ubnlib.records import Config


class Experiment(NamedTuple):
    """Where an experiment lives; its modules are imported only when it is run."""

    module: str  # has the function
    config: str
    run: str
    config_module: str = ""  # where it is not the function's
    frames: bool = False  # whether it trains on packed frames
    alone: bool = False  # whether it times the machine, which then does nothing else

    def load(self) -> tuple[type[Config], Callable]:
        """Import and return the configuration's class and the function."""
        config = importlib.import_module(self.config_module or self.module)
        return getattr(config, self.config), getattr(importlib.import_module(self.module), self.run)


EXPERIMENTS = {
    "identities": Experiment("ubnlib.identities", "IdentitiesConfig", "run_identities"),
    "implementation": Experiment(
        "ubnlib.implementation", "ImplementationConfig", "run_implementation"
    ),
    "step_cost": Experiment("ubnlib.step_cost", "StepCostConfig", "run_step_cost", alone=True),
    "spiral": Experiment("ubnlib.spiral.experiment", "SpiralConfig", "run_spiral"),
    "spiral_features": Experiment("ubnlib.spiral.feature_study", "FeaturesConfig", "run_features"),
    "spiral_uncertainty": Experiment(
        "ubnlib.spiral.uncertainty",
        "UncertaintyConfig",
        "run_uncertainty",
        config_module="ubnlib.spiral.uncertainty_methods",
    ),
    "spiral_augmentation": Experiment(
        "ubnlib.spiral.augmentation_study", "AugmentationConfig", "run_augmentation"
    ),
    "depth": Experiment(
        "ubnlib.depth_experiment",
        "DepthConfig",
        "run_depth",
        config_module="ubnlib.depth_config",
        frames=True,
    ),
    "ablation": Experiment(
        "ubnlib.ablation.experiment",
        "AblationConfig",
        "run_ablation",
        config_module="ubnlib.ablation.config",
    ),
}
