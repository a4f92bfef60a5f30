"""The configuration of a run of the ablation: everything that its record depends on."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from experiments.ablation.methods import Method
from experiments.common.records import Config

Domain = Literal["spiral", "digits", "drives", "indoor"]


class Setting(Config):
    """How long and how a net is trained, the same for every method unless tuning says otherwise."""

    labels: int = Field(ge=1)  # a class, or one in so many frames: as the domain counts
    labeled_batch: int = Field(ge=2)
    other_batch: int = Field(ge=1)  # the usual number of rows beside them
    learning_rate: float = Field(ge=0)
    steps: int = Field(ge=1)


class AblationConfig(Config):
    """One run."""

    version: ClassVar[int] = 1
    experiment: Literal["ablation"] = "ablation"
    domain: Domain
    stage: Literal["tuning", "claims"] = "claims"  # tuning is judged by other data than claims
    ingredient: str = ""  # what a run is for, and its name there, so that claims can ask for it
    name: str = ""
    data: str = ""  # fingerprint of frames; other domains make their data from the seeds
    method: Method
    setting: Setting
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
