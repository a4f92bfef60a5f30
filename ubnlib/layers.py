"""The Unsupervised Batch Normalization layers: state and switches around `ubnlib.statistics`."""

from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from ubnlib.averages import move_together
from ubnlib.lockstep import Lockstep
from ubnlib.passes import Call, advance, collect, normalize_by_itself, recompute, use
from ubnlib.statistics import RunningStat, batch_statistics

Source = Literal["batch", "running"]
StatsGrad = Literal["corrected", "none", "labeled", "all"]

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's literal text: two steps, constant statistics, averages of sigma by a decay.
    "paper": dict(source="batch", stats_grad="none", running_stat="std", decay=0.9),
}

CHOICES = {"source": Source, "stats_grad": StatsGrad, "running_stat": RunningStat}
SWITCHES = (*CHOICES, "unlabeled_weight", "skip_nonfinite")
STEP_STATE = ("_step", "_group", "_rows", "_calls", "_used", "_plain", "_weights")


def _check_switches(switches: dict[str, Any], track_running_stats: bool) -> None:
    """Refuse values that are not allowed, or not together."""
    for name, choices in CHOICES.items():
        if switches[name] not in get_args(choices):
            allowed = ", ".join(map(repr, get_args(choices)))
            raise ValueError(f"{name} is {switches[name]!r}: it must be one of {allowed}.")
    weight = switches["unlabeled_weight"]
    if weight is not None and not 0 < weight <= 1:
        raise ValueError(
            f"unlabeled_weight is {weight!r}: it must be above 0 and at most 1, or None to weigh "
            "labeled and unlabeled rows by their number."
        )
    if switches["source"] == "running" and not track_running_stats:
        raise ValueError(
            'source="running" normalizes by the moving averages, which '
            "track_running_stats=False does not keep: set one of them otherwise."
        )
    if switches["source"] == "running" and switches["stats_grad"] == "labeled":
        raise ValueError(
            'stats_grad="labeled" goes with source="batch" only: normalized by the moving '
            "averages, the labeled rows of step 2 are no longer those that step 1 averaged."
        )


def _in_backward() -> bool:
    """Whether autograd is going backward, where only activation checkpointing calls a layer."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class UnsupervisedBatchNorm(_BatchNorm):
    """What the 1d, 2d and 3d layers share; see `UnsupervisedBatchNorm2d`."""

    # Class attributes, so that a converted nn.BatchNorm needs no second __init__.
    source: Source = "batch"
    stats_grad: StatsGrad = "corrected"
    running_stat: RunningStat = "var"
    unlabeled_weight: float | None = None
    skip_nonfinite: bool = True

    # The state of a UBN step, kept until the next one for backward and for diagnostics. Plain
    # attributes: as buffers they would enter the state_dict and be overwritten by
    # DistributedDataParallel's broadcast.
    _step: Literal["collect", "use"] | Lockstep | None = None
    _group: ProcessGroup | None = None  # the ranks that share statistics
    _rows: tuple[int, int] | None = None  # labeled and unlabeled rows of step 1, if known
    _calls: tuple[Call, ...] = ()
    _used: int = 0  # how many of the calls step 2 has made
    _plain: bool = False  # whether the layer was called outside a step since the last one
    _weights: str | None = None  # what tells the weights with which step 1 was made, by hand

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
        unlabeled_weight: float | None = None,
        skip_nonfinite: bool = True,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            device=device,
            dtype=dtype,
            **({} if bias else {"bias": False}),  # older torch does not know the option
        )
        if decay is not None and momentum != 0.1:
            raise ValueError(
                f"Both decay={decay} and momentum={momentum} are given: they are one setting, "
                "decay = 1 - momentum; give one of them."
            )
        self.configure(
            decay=decay,
            source=source,
            stats_grad=stats_grad,
            running_stat=running_stat,
            unlabeled_weight=unlabeled_weight,
            skip_nonfinite=skip_nonfinite,
        )

    def configure(self, **options: Any) -> None:
        """Set the options that this layer has beyond nn.BatchNorm's.

        Args:
            **options: `momentum` or `decay`, `source`, `stats_grad`, `running_stat`,
                `unlabeled_weight`, `skip_nonfinite`, as in `UnsupervisedBatchNorm2d`.

        Raises:
            TypeError: An option has an unknown name.
            ValueError: A value is not among those allowed; the layer is as it was.
        """
        if options.get("momentum") is not None and options.get("decay") is not None:
            raise ValueError(
                "Both decay and momentum are given: they are one setting, decay = 1 - momentum; "
                "give one of them."
            )
        for name in options:
            if name not in (*SWITCHES, "momentum", "decay"):
                raise TypeError(
                    f"{name!r} is no option of {type(self).__name__}: it has momentum, decay, "
                    f"{', '.join(SWITCHES)}."
                )
        for name in ("momentum", "decay"):
            if options.get(name) is not None and not 0 <= options[name] <= 1:
                raise ValueError(f"{name} is {options[name]!r}: it must be from 0 to 1.")
        switches = {name: getattr(self, name) for name in SWITCHES}
        switches.update((name, value) for name, value in options.items() if name in SWITCHES)
        _check_switches(switches, self.track_running_stats)
        for name, value in switches.items():
            setattr(self, name, value)
        if options.get("decay") is not None:
            self.momentum = 1.0 - options["decay"]
        elif "momentum" in options:
            self.momentum = options["momentum"]

    @property
    def last_step(self) -> tuple[Call, ...]:
        """The statistics of each call in the last UBN step, for forward hooks and analyses.

        Example:
            >>> import torch
            >>> from ubnlib import UnsupervisedBatchNorm1d, ubn_forward
            >>> norm = UnsupervisedBatchNorm1d(1)
            >>> x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])
            >>> _ = ubn_forward(torch.nn.Sequential(norm), x, y)
            >>> [call.union.mean.item() for call in norm.last_step]
            [4.0]
        """
        return tuple(call.complete() for call in self._calls)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x; outside a UBN step exactly as nn.BatchNorm does."""
        if not self.training:
            return super().forward(x)
        if self._step is None:
            return recompute(self, x) if _in_backward() else self._forward_plainly(x)
        self._check_input_dim(x)
        if self._step == "collect":
            return collect(self, x)
        if self._step == "use":
            return use(self, x)
        return advance(self, x)

    def _forward_plainly(self, x: Tensor) -> Tensor:
        """Equation 1, with the averages moved."""
        self._plain = True
        if self.running_stat == "var" or self.running_mean is None:
            return super().forward(x)
        self._check_input_dim(x)
        move_together([self], [batch_statistics(x, differentiable=False)])
        return normalize_by_itself(self, x)

    def own_group(self) -> ProcessGroup | None:
        """Return the ranks that this layer shares statistics with whatever model it is in."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Leave a step's statistics behind: they may hold a graph, which cannot be copied."""
        state = dict(super().__getstate__())
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
        momentum: Weight of a new batch in the moving averages, 0 to freeze them; None averages all
            batches equally.
        affine: Whether gamma (`weight`) and beta (`bias`) are learned.
        track_running_stats: Whether moving averages are kept for evaluation.
        decay: The paper's lambda = 1 - momentum (equations 2 and 3); give it or `momentum`.
        source: What normalizes x in step 2: the combined `"batch"`, or the `"running"` averages
            that it moves.
        stats_grad: The gradient through these statistics. `"corrected"`: equation 4's values with
            batch normalization's gradient (see `ubnlib.kernels.NormalizeLabeled`);
            `"none"`: constants, the paper's literal two steps; `"labeled"`: the labeled rows'
            share carries gradient (with `source="batch"` only); `"all"`: both shares do, as one
            joint pass would. The default trained wherever it was tried, and no part of its steps is
            cancelled, where constants lose most of each step (docs/depth_study.md; notebook 3).
        running_stat: Whether the averages follow the variance (`"var"`, as torch) or the standard
            deviation (`"std"`, equation 3); `running_var` holds a variance in both cases.
        unlabeled_weight: Weight of the unlabeled rows' statistics in those of n, above 0; 1 leaves
            the labeled rows out. None weighs all rows alike.
        skip_nonfinite: Whether a UBN step whose statistics are not all finite leaves the moving
            averages as they are, which one such batch would spoil for good.
        bias: Whether there is a beta (in versions of torch that have this option).
        device: Where the parameters live.
        dtype: Their type.

    Shape:
        [N, C, H, W] to [N, C, H, W]; the statistics are per channel, over N, H and W.

    Raises:
        ValueError: A value is not allowed, or `decay` and `momentum` are both given; in a step,
            statistics of fewer than two values per channel.
        RuntimeError: The two steps, or the two halves of the rows, take different paths through
            the model; activation checkpointing meets rows of an earlier step.

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


class UnsupervisedSyncBatchNorm(UnsupervisedBatchNorm, nn.SyncBatchNorm):
    """What `convert_ubn` makes of nn.SyncBatchNorm, which it is outside a UBN step.

    In a UBN step, its statistics are over the ranks of its own process group, also in a model that
    is not wrapped in DistributedDataParallel. See `UnsupervisedBatchNorm2d`.
    """

    def own_group(self) -> ProcessGroup | None:
        """Return the ranks that this layer shares statistics with whatever model it is in."""
        if not (dist.is_available() and dist.is_initialized()):
            return None
        return self.process_group or dist.group.WORLD
