"""Forms of UBN beyond the paper's, for training deep nets: where it acts, and what it adds.

A form is a configuration. It turns a model's batch normalization into UBN and says what to add to
the loss: the statistics gap (`statistics_gap`), whose gradient can be let into the labeled rows,
the unlabeled ones, or both.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from experiments.common.training import BNConfig, UBNConfig
from experiments.depth.repairs import Repair, repair_literal
from ubnlib.convert import convert_ubn
from ubnlib.forward import ubn_layers
from ubnlib.functional import gap

Where = Literal["all", "first half", "second half"]
GapGradient = Literal["labeled", "unlabeled", "both"]

NOTHING = 1e-12  # the weight of unlabeled rows in a layer that shall not see them


class UBNForm(UBNConfig):
    """UBN with switches that the paper does not have; the defaults are `UBNConfig`'s."""

    unlabeled_weight: float | None = None
    where: Where = "all"  # the layers whose statistics take unlabeled rows, in the order they run
    gap_weight: float = 0.0  # of the statistics gap in the loss
    gap_gradient: GapGradient = "labeled"
    repair: Repair = "nothing"  # of the literal reading's gradient

    @model_validator(mode="after")
    def _gradients_exist(self) -> "UBNForm":
        if self.gap_weight and self.gap_gradient != "labeled" and self.stats_grad != "all":
            raise ValueError(
                f"gap_gradient is {self.gap_gradient!r} and stats_grad {self.stats_grad!r}: the "
                'unlabeled rows have a gradient with stats_grad="all" only.'
            )
        if self.needs_both_halves and self.source == "running":
            raise ValueError(
                f'gap_weight is {self.gap_weight} with stats_grad="all": the gap\'s gradient needs '
                'both halves side by side, which source="running" cannot have; use "batch".'
            )
        if self.repair != "nothing" and (self.stats_grad, self.source) != ("none", "batch"):
            raise ValueError(
                f"repair is {self.repair!r}: it is for the literal reading, "
                'stats_grad="none" with source="batch".'
            )
        if self.repair != "nothing" and self.gap_weight:
            raise ValueError(
                f"repair is {self.repair!r} and gap_weight {self.gap_weight}: a repair would take "
                "its part out of the gap's gradient too; give one of them."
            )
        return self

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model, built with batch normalization, with this form of UBN instead."""
        own = {"kind", "where", "gap_weight", "gap_gradient", "repair"}
        convert_ubn(model, **self.model_dump(exclude=own))
        layers = ubn_layers(model)
        half = len(layers) // 2
        outside = {"all": [], "first half": layers[half:], "second half": layers[:half]}
        for layer in outside[self.where]:
            layer.configure(unlabeled_weight=NOTHING)
        if self.repair != "nothing":
            repair_literal(model, self.repair)
        return model

    @property
    def needs_both_halves(self) -> bool:
        """Whether the penalty's gradient needs both halves side by side.

        Two passes with `stats_grad="all"` keep no gradient of the labeled rows' own statistics.
        """
        return bool(self.gap_weight) and self.stats_grad == "all"

    def penalty(self, model: nn.Module) -> Tensor | float:
        """Return what the last UBN step, which had unlabeled rows, adds to the loss."""
        if not self.gap_weight:
            return 0.0
        return self.gap_weight * statistics_gap_of(model, self.gap_gradient)


NormConfig = Annotated[BNConfig | UBNForm, Field(discriminator="kind")]


def statistics_gap_of(model: nn.Module, gradient: GapGradient) -> Tensor:
    """Return `statistics_gap` of the last step, with its gradient in some of the rows only.

    Raises:
        RuntimeError: The last step was none of UBN, had no unlabeled rows, or had two passes with
            `stats_grad="all"`, which keep no gradient of the labeled statistics.
    """
    gaps = []
    for layer in ubn_layers(model):
        for union, labeled, unlabeled, *_ in layer.last_step:
            if labeled is None or unlabeled is None:
                raise RuntimeError(
                    "The last step had no labeled or no unlabeled rows: there is no gap."
                )
            if unlabeled.mean.requires_grad and not labeled.mean.requires_grad:
                raise RuntimeError(
                    'The gap has no gradient to the labeled rows in two passes with stats_grad="all'
                    '": take both halves side by side (`ubnlib.forward.side_by_side`).'
                )
            if gradient != "both":
                union = union.detach()
            if gradient == "unlabeled":
                labeled = labeled.detach()
            if gradient == "labeled":
                unlabeled = unlabeled.detach()
            gaps.append(gap(labeled, unlabeled, union, layer.eps))
    if not gaps:
        raise RuntimeError("The model has made no UBN step: call ubn_forward on it first.")
    return torch.cat(gaps).mean()
