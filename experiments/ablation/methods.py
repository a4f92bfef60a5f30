"""What the ablation compares: a normalization, the rows that it sees, and how they are used.

The configuration of a run is a method, a setting and a domain: everything that its record depends
on.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from experiments.ablation.norms import (
    BatchRenorm,
    GhostBatchNorm,
    SplitBatchNorm,
    add_dropout,
    replace_norms,
)
from experiments.common.records import Config
from experiments.common.training import BNConfig, UBNConfig
from ubnlib.forward import ubn_layers

Where = Literal["all", "first", "last", "first half", "second half"]
NOTHING = 1e-12  # the weight of unlabeled rows in a layer that shall not see them


class UBN(UBNConfig):
    """UBN with the switches that the paper leaves open."""

    unlabeled_weight: float | None = None
    where: Where = "all"  # layers that see unlabeled rows, as they run; a DispNet's halves are its
    # encoder and its decoder

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model, built with batch normalization, with UBN instead."""
        whole = UBNConfig(**self.model_dump(exclude={"unlabeled_weight", "where"})).apply(model)
        layers = ubn_layers(whole)
        half = len(layers) // 2
        inside = {
            "all": layers,
            "first": layers[:1],
            "last": layers[-1:],
            "first half": layers[:half],
            "second half": layers[half:],
        }[self.where]
        for layer in layers:
            weight = self.unlabeled_weight if layer in inside else NOTHING
            layer.configure(unlabeled_weight=weight)
        return whole


class Ghost(Config):
    """Batch normalization by parts of the labeled rows."""

    kind: Literal["ghost"] = "ghost"
    ghost: int = Field(ge=2)

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model with ghost batch normalization."""
        return replace_norms(model, lambda old: GhostBatchNorm(old.num_features, self.ghost))


class Renorm(Config):
    """Batch Renormalization."""

    kind: Literal["renorm"] = "renorm"
    r_max: float = Field(ge=1)
    d_max: float = Field(ge=0)

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model with Batch Renormalization."""
        return replace_norms(
            model, lambda old: BatchRenorm(old.num_features, self.r_max, self.d_max)
        )


class Split(Config):
    """Statistics of their own for labeled and unlabeled rows."""

    kind: Literal["split"] = "split"

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model with split batch normalization."""
        return replace_norms(model, lambda old: SplitBatchNorm(old.num_features))


class Group(Config):
    """Normalization of each row by itself, over groups of channels; 1 group is LayerNorm.

    `per_group` says how many channels a group has: 1 is InstanceNorm, None is LayerNorm over
    channels and space.
    """

    kind: Literal["group"] = "group"
    per_group: int | None = Field(default=None, ge=1)

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model with group normalization; nets side by side have groups of their own."""
        members = getattr(model, "members", 1)

        def make(old: nn.Module) -> nn.Module:
            channels = old.num_features // members
            groups = 1 if self.per_group is None else max(1, channels // self.per_group)
            return nn.GroupNorm(members * groups, old.num_features)

        return replace_norms(model, make)


Norm = Annotated[BNConfig | UBN | Ghost | Renorm | Split | Group, Field(discriminator="kind")]
Pool = Literal["unlabeled", "labeled", "everything", "other"]


class Rows(Config):
    """The rows beside the labeled ones in a training step."""

    pool: Pool = "unlabeled"  # "other" is another distribution, which the domain names
    number: int | Literal["all"] | None = None  # in a step; None is the domain's usual number
    fresh: bool = True  # drawn anew in each step, or once


class Teacher(Config):
    """Mean teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): a loss on unlabeled rows.

    The student is asked to agree with the moving average of its own weights, on rows with other
    noise. The weight grows over the first third of the training.
    """

    weight: float = Field(gt=0)
    decay: float = Field(default=0.99, gt=0, lt=1)


class Method(Config):
    """One thing to compare."""

    norm: Norm = BNConfig()
    rows: Rows = Rows()
    averages_see: bool = False  # BN whose moving averages see unlabeled rows, and nothing else does
    teacher: Teacher | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_use_of_rows(self) -> "Method":
        uses = [self.norm.kind == "ubn", self.averages_see, self.teacher is not None]
        if sum(uses) > 1:
            raise ValueError(
                "Unlabeled rows are for one of UBN, the averages and the teacher: give one of them."
            )
        if self.norm.kind == "split" and self.teacher is None:
            raise ValueError(
                "Split normalization without a loss on unlabeled rows is batch normalization: "
                "give a teacher."
            )
        return self

    @property
    def sees_unlabeled(self) -> bool:
        """Whether a step needs rows beside the labeled ones."""
        return self.norm.kind == "ubn" or self.averages_see or self.teacher is not None

    def apply(self, model: nn.Module) -> nn.Module:
        """Change a model, built with batch normalization, to this method's, and return it."""
        model = self.norm.apply(model)
        return add_dropout(model, self.dropout) if self.dropout else model


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
