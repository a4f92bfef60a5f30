"""The Unsupervised Batch Normalization layers: state and switches around `ubnlib.statistics`."""

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ubnlib.statistics import (
    Moments,
    RunningStat,
    Statistics,
    batch_statistics,
    carry_labeled_gradient,
    moving_average,
    normalize,
    normalize_corrected,
)

Source = Literal["batch", "running"]
StatsGrad = Literal["corrected", "none", "labeled", "all"]

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's literal text: two steps, constant statistics, averages of sigma by a decay.
    "paper": dict(source="batch", stats_grad="none", running_stat="std", decay=0.9),
}

SWITCHES = {"source": Source, "stats_grad": StatsGrad, "running_stat": RunningStat}
STEP_STATE = ("_step", "_collected", "_labeled")
LAYER_STATE = (*SWITCHES, *STEP_STATE)  # what a layer has beyond nn.BatchNorm's attributes


class Collected(NamedTuple):
    """What one call of a layer in step 1 leaves for its call in step 2."""

    union: Statistics  # of the labeled and unlabeled rows together
    running: Moments | None  # the moving averages before this batch moved them
    momentum: float


class UnsupervisedBatchNorm(_BatchNorm):
    """What the 1d, 2d and 3d layers share; see `UnsupervisedBatchNorm2d`."""

    # Class attributes, so that a converted nn.BatchNorm needs no second __init__.
    source: Source = "batch"
    stats_grad: StatsGrad = "corrected"
    running_stat: RunningStat = "var"

    # The state of a UBN step, kept until the next one for micro-batches and diagnostics. Plain
    # attributes: as buffers they would enter the state_dict and be overwritten by
    # DistributedDataParallel's broadcast.
    _step: Literal["collect", "use"] | None = None
    _collected: tuple[Collected, ...] = ()
    _labeled: tuple[Tensor, ...] = ()  # the inputs of step 2's calls so far, for diagnostics

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        decay: float | None = None,
        source: Source = "batch",
        stats_grad: StatsGrad = "corrected",
        running_stat: RunningStat = "var",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        if decay is not None and momentum != 0.1:
            raise ValueError(
                f"Both decay={decay} and momentum={momentum} are given: they are one setting, "
                "decay = 1 - momentum; give one of them."
            )
        self.configure(decay=decay, source=source, stats_grad=stats_grad, running_stat=running_stat)

    def configure(self, **options: Any) -> None:
        """Set the options that this layer has beyond nn.BatchNorm's.

        Args:
            **options: `momentum` or `decay`, `source`, `stats_grad`, `running_stat`, as in
                `UnsupervisedBatchNorm2d`.

        Raises:
            TypeError: An option has an unknown name.
            ValueError: A value is not among those allowed.
        """
        if options.get("momentum") is not None and options.get("decay") is not None:
            raise ValueError(
                "Both decay and momentum are given: they are one setting, decay = 1 - momentum; "
                "give one of them."
            )
        for name, value in options.items():
            if name in SWITCHES:
                if value not in get_args(SWITCHES[name]):
                    choices = ", ".join(map(repr, get_args(SWITCHES[name])))
                    raise ValueError(f"{name} is {value!r}: it must be one of {choices}.")
                setattr(self, name, value)
            elif name == "momentum":
                self.momentum = value
            elif name == "decay":
                self.momentum = self.momentum if value is None else 1.0 - value
            else:
                raise TypeError(
                    f"{name!r} is no option of {type(self).__name__}: it has momentum, decay, "
                    f"{', '.join(SWITCHES)}."
                )
        if self.source == "running" and not self.track_running_stats:
            raise ValueError(
                'source="running" normalizes by the moving averages, which '
                "track_running_stats=False does not keep: set one of them otherwise."
            )
        if self.source == "running" and self.stats_grad == "labeled":
            raise ValueError(
                'stats_grad="labeled" goes with source="batch" only: normalized by the moving '
                "averages, the labeled rows of step 2 are no longer those that step 1 averaged."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x; outside a UBN step exactly as nn.BatchNorm does."""
        self._check_input_dim(x)
        if self.training and self._step == "collect":
            return self._collect(x)
        if self.training and self._step == "use":
            return self._use(x)
        if self.training and self.running_stat == "std" and self.track_running_stats:
            self._track(batch_statistics(x.detach()))
            return self._normalize_by_itself(x)
        return super().forward(x)

    def _collect(self, x: Tensor) -> Tensor:
        """Step 1: gather the statistics of the combined batch and move the averages."""
        union = batch_statistics(x)
        if union.count < 2:
            raise ValueError(
                f"The combined batch has {union.count} value per channel: statistics need at "
                "least 2; give more rows."
            )
        running = momentum = None
        if self.track_running_stats:
            running = Moments(self.running_mean.clone(), self.running_var.clone())
            momentum = self._track(union.detach())
        self._collected += (Collected(union, running, momentum),)
        return self._normalize_by_itself(x)

    def _use(self, x: Tensor) -> Tensor:
        """Step 2: normalize the labeled rows by what step 1 collected (equation 4)."""
        call = len(self._labeled)
        if call >= len(self._collected):
            raise RuntimeError(
                f"This layer is called {call + 1} times in step 2 but was called "
                f"{len(self._collected)} times in step 1: both steps must take the same path "
                "through the model."
            )
        union, running, momentum = self._collected[call]
        self._labeled += (x,)
        if self.stats_grad == "labeled":
            union = carry_labeled_gradient(union, batch_statistics(x))
        reference = union.moments
        if self.source == "running":
            reference = moving_average(running, union, momentum, self.running_stat)
        if self.stats_grad != "corrected":
            return normalize(x, reference, self.weight, self.bias, self.eps)
        labeled = batch_statistics(x.detach())
        if labeled.count < 2:
            raise ValueError(
                'stats_grad="corrected" needs at least 2 labeled values per channel, as batch '
                'normalization does, and got 1: give more labeled rows or use "none" or "labeled".'
            )
        return normalize_corrected(x, labeled.moments, reference, self.weight, self.bias, self.eps)

    def _normalize_by_itself(self, x: Tensor) -> Tensor:
        """Equation 1: normalize x by its own statistics, and move nothing."""
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    @torch.no_grad()
    def _track(self, batch: Statistics) -> float:
        """Move the averages by one batch (equations 2 and 3); return the momentum that it took."""
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # cumulative average, as in nn.BatchNorm
            momentum = 1.0 / float(self.num_batches_tracked)
        running = Moments(self.running_mean, self.running_var)
        mean, var = moving_average(running, batch, momentum, self.running_stat)
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)
        return momentum

    def __getstate__(self) -> dict[str, Any]:
        """Leave a step's statistics behind: they may hold a graph, which cannot be copied."""
        state = self.__dict__.copy()
        for name in STEP_STATE:
            state.pop(name, None)
        return state

    def extra_repr(self) -> str:
        """Add the options that differ from the default."""
        options = [
            f"{name}={getattr(self, name)!r}"
            for name in SWITCHES
            if getattr(self, name) != getattr(UnsupervisedBatchNorm, name)
        ]
        return ", ".join([super().extra_repr(), *options])


class UnsupervisedBatchNorm1d(UnsupervisedBatchNorm, nn.BatchNorm1d):
    """Unsupervised Batch Normalization of [N, C] or [N, C, L]; see `UnsupervisedBatchNorm2d`."""


class UnsupervisedBatchNorm2d(UnsupervisedBatchNorm, nn.BatchNorm2d):
    """Unsupervised Batch Normalization of [N, C, H, W] (Kocyigit et al., CVPR Workshops 2020).

    A subclass of nn.BatchNorm2d with the same parameters, buffers and state_dict. Labeled rows x
    are normalized by statistics of the combined batch n = {x, y} with unlabeled rows y:

        gamma (x - mu(n)) / sigma(n) + beta                                  (equation 4)

    A training step has two forward passes, which `ubn_forward` runs: step 1 (`collecting`) takes
    n and moves the averages, step 2 (`using`) takes x alone and carries the gradient. Outside
    these steps, and in evaluation, the layer is exactly nn.BatchNorm2d.

    Args:
        num_features: Number of channels C.
        eps: Added to the variance.
        momentum: Weight of a new batch in the moving averages; None averages all batches equally.
        affine: Whether gamma (`weight`) and beta (`bias`) are learned.
        track_running_stats: Whether moving averages are kept for evaluation.
        decay: The paper's lambda = 1 - momentum (equations 2 and 3); give it or `momentum`.
        source: What normalizes x in step 2: the combined `"batch"`, or the `"running"` averages
            that it has just moved.
        stats_grad: The gradient through these statistics. `"corrected"`: equation 4's values with
            batch normalization's gradient (see `ubnlib.statistics.normalize_corrected`);
            `"none"`: constants, the paper's literal two steps; `"labeled"`: the labeled rows'
            share carries gradient (with `source="batch"` only); `"all"`: both shares do, as one
            joint pass would.
        running_stat: Whether the averages follow the variance (`"var"`, as torch) or the standard
            deviation (`"std"`, equation 3); `running_var` holds a variance in both cases.
        device: Where the parameters live.
        dtype: Their type.

    Raises:
        ValueError: A value is not allowed, or `decay` and `momentum` are both given.

    Example:
        >>> import torch
        >>> from ubnlib import UnsupervisedBatchNorm2d, ubn_forward
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), UnsupervisedBatchNorm2d(8))
        >>> labeled, unlabeled = torch.randn(2, 3, 9, 9), torch.randn(6, 3, 9, 9)
        >>> ubn_forward(model, labeled, unlabeled).shape
        torch.Size([2, 8, 7, 7])
    """


class UnsupervisedBatchNorm3d(UnsupervisedBatchNorm, nn.BatchNorm3d):
    """Unsupervised Batch Normalization of [N, C, D, H, W]; see `UnsupervisedBatchNorm2d`."""
