"""Which class configures each experiment, and which function makes its record."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

from experiments.common.records import Config


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
    "identities": Experiment("experiments.method.equations", "IdentitiesConfig", "run_identities"),
    "implementation": Experiment(
        "experiments.method.implementation", "ImplementationConfig", "run_implementation"
    ),
    "step_cost": Experiment(
        "experiments.method.step_cost", "StepCostConfig", "run_step_cost", alone=True
    ),
    "spiral": Experiment("experiments.toy.train", "SpiralConfig", "run_spiral"),
    "spiral_features": Experiment(
        "experiments.toy.figure3_features", "FeaturesConfig", "run_features"
    ),
    "spiral_uncertainty": Experiment(
        "experiments.toy.figure4_uncertainty", "UncertaintyConfig", "run_uncertainty"
    ),
    "spiral_augmentation": Experiment(
        "experiments.toy.figure5_augmentation", "AugmentationConfig", "run_augmentation"
    ),
    "depth": Experiment(
        "experiments.depth.train",
        "DepthConfig",
        "run_depth",
        config_module="experiments.depth.config",
        frames=True,
    ),
    "ablation": Experiment(
        "experiments.ablation.experiment",
        "AblationConfig",
        "run_ablation",
        config_module="experiments.ablation.config",
    ),
}
