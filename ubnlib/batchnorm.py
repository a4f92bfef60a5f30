"""The Unsupervised Batch Normalization layers: their switches, their state, what a call does.

A layer calls the equations of `ubnlib.functional`; `ubnlib.forward` says which step it is in.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from ubnlib.checkpointing import Seen, in_backward, unseen
from ubnlib.distributed import pool
from ubnlib.functional import (
    Moments,
    NormalizeLabeled,
    RunningStat,
    Statistics,
    batch_statistics,
    merge,
    moving_average,
    normalize,
    remove,
)
from ubnlib.lockstep import Lockstep

Source = Literal["batch", "running"]
StatsGrad = Literal["corrected", "none", "labeled", "all"]
Affine = tuple[Tensor | None, Tensor | None]  # gamma and beta
Averages = tuple[Tensor | None, Tensor | None, Tensor | None]  # mean, variance, number of batches

# The paper's literal text: two steps, constant statistics, averages of sigma by a decay.
PAPER = dict(
    source="batch", stats_grad="none", running_stat="std", unlabeled_weight=None, decay=0.9
)

CHOICES = {"source": Source, "stats_grad": StatsGrad, "running_stat": RunningStat}
CHOICES |= dict.fromkeys(("skip_nonfinite", "keep_graph"), Literal[True, False])
SWITCHES = (*CHOICES, "unlabeled_weight")
STEP_STATE = "_step _group _rows _joint _calls _averages _used _weights _seen".split()


def _check_switches(switches: dict[str, Any], track_running_stats: bool) -> None:
    """Refuse values that are not allowed, or not together."""
    for name, choices in CHOICES.items():
        if switches[name] not in get_args(choices):
            allowed = ", ".join(map(repr, get_args(choices)))
            raise ValueError(f"{name} is {switches[name]!r}: it must be one of {allowed}.")
    weight = switches["unlabeled_weight"]
    if weight is not None and not (isinstance(weight, Real) and 0 < weight <= 1):
        raise ValueError(
            f"unlabeled_weight is {weight!r}: it must be a number above 0 and at most 1, or None "
            "to weigh labeled and unlabeled rows by their number."
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


class Call(NamedTuple):
    """The statistics that one call of a layer saw in a UBN step, over all ranks.

    They are constants when the step is over, unless the layer has `keep_graph`: then the labeled
    ones carry gradient, and with `stats_grad="all"` the others too. By hand `labeled` is None until
    step 2, and `unlabeled` too unless `rows` were given; a joint pass has neither.
    """

    union: Statistics
    labeled: Statistics | None
    unlabeled: Statistics | None
    reference: Moments  # what normalizes the labeled rows
    own: Moments | None = None  # of this rank's labeled rows, to know them again

    def detach(self) -> "Call":
        """Return the same values as constants, which keep no graph alive."""
        return Call(*(v if v is None else v.detach() for v in self))

    def complete(self) -> "Call":
        """Return the call with the unlabeled rows' share, where step 1 saw the union only."""
        if self.labeled is None or self.unlabeled is not None:
            return self
        part = self.labeled if self.union.mean.requires_grad else self.labeled.detach()
        if isinstance(part.count, int) and part.count >= self.union.count:
            return self  # nothing was unlabeled
        return self._replace(unlabeled=remove(self.union, part))


class UnsupervisedBatchNorm(_BatchNorm):
    """What the 1d, 2d and 3d layers share; see `UnsupervisedBatchNorm2d`."""

    # Class attributes, so that a converted nn.BatchNorm needs no second __init__.
    source: Source = "batch"
    stats_grad: StatsGrad = "corrected"
    running_stat: RunningStat = "var"
    unlabeled_weight: float | None = None
    skip_nonfinite: bool = True
    keep_graph: bool = False

    # The state of a UBN step, kept until the next one for backward and for diagnostics. Plain
    # attributes: as buffers they would enter the state_dict and be overwritten by
    # DistributedDataParallel's broadcast.
    _step: Literal["collect", "use"] | Lockstep | None = None
    _group: ProcessGroup | None = None  # the ranks that share statistics
    _rows: tuple[int, int] | None = None  # labeled and unlabeled rows of step 1, if known
    _joint: bool = False  # whether the unlabeled rows carry gradient as the labeled ones do
    _calls: tuple[Call, ...] = ()
    _averages: tuple[Averages | None, ...] = ()  # the buffers that each of these calls moves
    _used: int = 0  # how many of the calls step 2 has made
    _weights: str | None = None  # what tells the weights with which step 1 was made, by hand
    _seen: Seen | None = None  # for activation checkpointing

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        decay: float | None = None,
        bias: bool = True,
        device=None,
        dtype=None,
        **switches: Any,
    ) -> None:
        more = {} if bias else {"bias": False}  # older torch does not know the option
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **more
        )
        own = {} if momentum == 0.1 else dict(momentum=momentum)
        self.configure(decay=decay, **own, **switches)

    def configure(self, **options: Any) -> None:
        """Set `momentum` or `decay` and the switches; see `UnsupervisedBatchNorm2d`.

        Raises:
            TypeError: An option has an unknown name.
            ValueError: A value is not among those allowed; the layer is as it was.
        """
        if "momentum" in options and options.get("decay") is not None:
            raise ValueError(
                f"Both decay={options['decay']!r} and momentum={options['momentum']!r} are given: "
                "they are one setting, decay = 1 - momentum; give one of them."
            )
        for name in options:
            if name not in (*SWITCHES, "momentum", "decay"):
                raise TypeError(
                    f"{name!r} is no option of {type(self).__name__}: it has momentum, decay, "
                    f"{', '.join(SWITCHES)}."
                )
        for name in ("momentum", "decay"):
            value = options.get(name)
            if value is not None and not (isinstance(value, Real) and 0 <= value <= 1):
                raise ValueError(f"{name} is {value!r}: it must be a number from 0 to 1.")
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
        """The statistics of each call in the last UBN step, for forward hooks and analyses."""
        return tuple(call.complete() for call in self._calls)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize the input; outside a UBN step exactly as nn.BatchNorm does."""
        if not self.training:
            return super().forward(input)
        if self._step is None:
            return self._recompute(input) if in_backward() else self._forward_plainly(input)
        self._check_input_dim(input)
        if self._step == "collect":
            return self._collect(input)
        if self._step == "use":
            return self._use(input)
        return self._advance(input)

    def _forward_plainly(self, x: Tensor) -> Tensor:
        """Equation 1, with the averages moved."""
        self._check_input_dim(x)
        self._remember(x)
        if self.running_stat == "var" or not self._keeps_averages():
            return super().forward(x)
        output = self._normalize_by_itself(x)
        (own,) = pool((batch_statistics(x, differentiable=False),), self.own_group())
        if isinstance(own.count, Tensor) or own.count:
            averages = self.running_mean, self.running_var, self.num_batches_tracked
            _move_together([(self, averages, own)])
        return output

    def _keeps_averages(self) -> bool:
        """Whether a batch moves them; `track_running_stats` may be turned off for a while."""
        return self.track_running_stats and self.running_mean is not None

    def _collect(self, x: Tensor) -> Tensor:
        """Step 1: gather the statistics of the combined batch."""
        carries = self._joint or self.stats_grad == "all"
        if self._rows is None:
            if self.unlabeled_weight is not None:
                raise ValueError(
                    f"unlabeled_weight={self.unlabeled_weight} needs to know which rows are "
                    "labeled: say collecting(model, rows=(labeled, unlabeled)) with their numbers."
                )
            own, unlabeled = batch_statistics(x, differentiable=carries), None
            (union,) = pool((own,), self._group)
        else:
            n, m = self._rows
            split = len(x) * n // max(n + m, 1)
            if split * (n + m) != len(x) * n:
                raise RuntimeError(
                    f"This layer gets {len(x)} rows for the {n} labeled and {m} unlabeled ones of "
                    "the combined batch, which cannot be told apart in it."
                )
            own = batch_statistics(x[:split], differentiable=carries)
            other = batch_statistics(x[split:], differentiable=carries)
            labeled, unlabeled = pool((own, other), self._group)
            union = merge(labeled, unlabeled, self.unlabeled_weight)
        call = self._open_call(union, unlabeled)
        if self._joint:
            self._remember(x, call._replace(own=own.moments))
        return normalize(x, union.moments, self.weight, self.bias, self.eps)

    def _use(self, x: Tensor) -> Tensor:
        """Step 2: normalize the labeled rows by what step 1 collected (equation 4)."""
        if self._used >= len(self._calls):
            raise RuntimeError(
                f"This layer is called {self._used + 1} times in step 2 but was called "
                f"{len(self._calls)} times in step 1: both steps must take the same path through "
                "the model."
            )
        if self.stats_grad == "all" and x.requires_grad and torch.is_grad_enabled():
            if not self._calls[self._used].union.mean.requires_grad:
                raise RuntimeError(
                    'Step 1 was made without gradient, which stats_grad="all" needs: leave '
                    "torch.no_grad out of it, and set the option before."
                )
        own = batch_statistics(x, differentiable=self.stats_grad == "labeled")
        (labeled,) = pool((own,), self._group)
        self._used += 1
        return self._finish_call(x, own, labeled, self._used - 1, (self.weight, self.bias))

    def _advance(self, x: Tensor) -> Tensor:
        """Both steps at once, for either half of the rows (see `ubnlib.lockstep`)."""
        lockstep = self._step
        affine = self.weight, self.bias  # a hook, as of weight norm, may make them for each half
        joint = self._joint or self.stats_grad == "all"
        unlabeled_half = lockstep.in_unlabeled_half()
        carries = joint or (self.stats_grad == "labeled" and not unlabeled_half)
        own = batch_statistics(x, differentiable=carries)

        def combine(labeled: Statistics, unlabeled: Statistics) -> int:
            labeled, unlabeled = pool((labeled, unlabeled), self._group)
            constant = labeled if joint else labeled.detach()
            self._open_call(merge(constant, unlabeled, self.unlabeled_weight), unlabeled, labeled)
            return len(self._calls) - 1

        index = lockstep.meet(self, own, combine)
        call = self._calls[index]
        if unlabeled_half:
            return normalize(x, call.union.moments, *affine, self.eps)
        self._used += 1
        return self._finish_call(x, own, call.labeled, index, affine)

    def _finish_call(
        self, x: Tensor, own: Statistics, labeled: Statistics, index: int, affine: Affine
    ) -> Tensor:
        """Normalize the labeled rows of a call, and note their statistics."""
        call = self._calls[index]
        out, labeled = self._normalize_labeled(x, labeled, call, affine)
        call = call._replace(labeled=labeled, own=own.moments.detach())
        self._calls = (*self._calls[:index], call, *self._calls[index + 1 :])
        self._remember(x, call)
        return out

    def _remember(self, x: Tensor, call: Call | None = None) -> None:
        """Note a call for the second forward of the activation checkpoint that it is in."""
        if not torch.compiler.is_compiling():
            if self._seen is None:
                vars(self)["_seen"] = Seen()
            self._seen.note(x, call)

    def _recompute(self, x: Tensor) -> Tensor:
        """Activation checkpointing's second forward: the same values again, and nothing moved."""
        with unseen():  # selective checkpointing counts operations
            own = batch_statistics(x, differentiable=False).moments
            call = self._seen and self._seen.recall(own)
        if call is None:
            return self._normalize_by_itself(x)
        if self.stats_grad == "all" or self._joint or call.labeled is None:
            raise RuntimeError(
                "Activation checkpointing does not go with unlabeled rows that have a gradient "
                '(stats_grad="all", return_unlabeled="gradient"), which are in another pass.'
            )
        labeled = call.labeled
        if self.stats_grad == "labeled":
            (labeled,) = pool((batch_statistics(x),), self._group)
        return self._normalize_labeled(x, labeled, call, (self.weight, self.bias))[0]

    def _normalize_by_itself(self, x: Tensor) -> Tensor:
        """Equation 1, and nothing moved."""
        if (group := self.own_group()) is not None:
            (own,) = pool((batch_statistics(x),), group)
            return normalize(x, own.moments, self.weight, self.bias, self.eps)
        mean = var = None
        if self.running_mean is not None and self.running_stat == "var":
            # Checkpointing compares with the first forward, in which autograd saw the averages.
            with unseen():
                mean, var = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, 0.0, self.eps)

    def _open_call(
        self, union: Statistics, unlabeled: Statistics | None, labeled: Statistics | None = None
    ) -> Call:
        """Note what the labeled rows and the moving averages will need."""
        if isinstance(union.count, int) and union.count < 2:
            raise ValueError(
                f"The combined batch has {union.count} value per channel: statistics need at least "
                "2; give more rows."
            )
        # Noted here, for torch.func.functional_call puts others in their place for a while.
        averages = self.running_mean, self.running_var, self.num_batches_tracked
        reference = union.moments
        if self.source == "running":
            calls = self._calls
            before = calls[-1].reference if calls else Moments(*averages[:2])
            reference, _ = self._average_after(before, union.unbiased, averages[2], len(calls))
        call = Call(union, labeled, unlabeled, reference)
        self._calls += (call,)
        self._averages += (averages if self._keeps_averages() else None,)
        return call

    def _normalize_labeled(
        self, x: Tensor, labeled: Statistics, call: Call, affine: Affine
    ) -> tuple[Tensor, Statistics]:
        """Normalize labeled rows by a call's reference, with the gradient of `stats_grad`.

        Returns them with their statistics, which carry gradient where the layer keeps it.
        """
        reference = call.reference
        if self.stats_grad == "labeled" and not self._joint:
            # The union's value, and the derivatives of any order of the labeled rows' share in it.
            unlabeled = call._replace(labeled=labeled.detach()).complete().unlabeled
            union = (
                labeled if unlabeled is None else merge(labeled, unlabeled, self.unlabeled_weight)
            )
            pairs = zip(call.union.moments, union.moments, strict=True)
            reference = Moments(*(value + (share - share.detach()) for value, share in pairs))
        if self._joint or self.stats_grad in ("labeled", "all"):
            return normalize(x, reference, *affine, self.eps), labeled
        corrected = self.stats_grad == "corrected"
        if corrected and isinstance(labeled.count, int) and labeled.count < 2:
            raise ValueError(
                'stats_grad="corrected" needs at least 2 labeled values per channel, as batch '
                f"normalization does, and got {labeled.count}: give more labeled rows or use "
                '"none" or "labeled".'
            )
        out, mean, var = NormalizeLabeled.apply(
            x, *affine, *labeled, *reference, self.eps, corrected, self._group
        )
        return out, Statistics(mean, var, labeled.count)

    def _average_after(
        self, running: Moments, batch: Moments, batches: Tensor, earlier: int = 0
    ) -> tuple[Moments, Tensor | int]:
        """Return where averages are after one batch, and whether it was taken.

        The batch's variance is unbiased; `earlier` ones of this step are yet to count in `batches`.
        """
        momentum = self.momentum
        if momentum is None:  # cumulative average, as in nn.BatchNorm
            momentum = 1.0 / (batches + (earlier + 1)).to(running.mean.dtype)
        moved = moving_average(running, batch, momentum, self.running_stat)
        if not self.skip_nonfinite:
            return moved, 1
        taken = torch.isfinite(batch.mean + batch.var).all()
        kept = zip(moved, running, strict=True)
        return Moments(*(torch.where(taken, new, old) for new, old in kept)), taken

    # What `ubnlib.forward` does with a layer; nn.Module's __setattr__ is slow.

    def begin_step(
        self, group: ProcessGroup | None, rows: tuple[int, int] | None = None, joint: bool = False
    ) -> None:
        """Forget the last step, and share the new one's statistics over the ranks of a group."""
        vars(self).update(_calls=(), _averages=(), _weights=None)
        vars(self).update(_rows=rows, _joint=joint, _group=self.own_group() or group)
        if self._seen is not None:
            self._seen.begin_step()

    def enter_step(self, step: Literal["collect", "use"] | Lockstep) -> None:
        """Take part in a step from now on."""
        vars(self).update(_step=step, _used=0)

    def leave_step(self, forget: bool) -> None:
        """Take part in no step any more; its statistics stay, unless it failed, as constants."""
        calls = () if forget else self._calls
        if not self.keep_graph and (self._joint or self._step != "collect"):
            calls = tuple(call.detach() for call in calls)
        vars(self).update(_step=None, _calls=calls)

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
        num_features, eps, momentum, affine, track_running_stats, bias, device, dtype: As of
            nn.BatchNorm2d; momentum is the weight of a new batch, and 0 freezes the averages.
        decay: The paper's lambda = 1 - momentum (equations 2 and 3); give it or `momentum`.
        source: What normalizes x in step 2: the combined `"batch"` or the `"running"` averages.
        stats_grad: The gradient through these statistics. `"corrected"`: equation 4's values with
            batch normalization's gradient (see `ubnlib.functional.NormalizeLabeled`);
            `"none"`: constants, the paper's literal two steps; `"labeled"`: the labeled rows'
            share carries gradient (with `source="batch"` only); `"all"`: both shares do, as one
            joint pass would. Constants lose most of each step (docs/results.md; notebook 3).
        running_stat: Whether the averages follow the variance (`"var"`, as torch) or the standard
            deviation (`"std"`, equation 3); `running_var` holds a variance in both cases.
        unlabeled_weight: Weight of the unlabeled rows' statistics in those of n, above 0; 1 leaves
            the labeled rows out. None weighs all rows alike.
        keep_graph: Whether the statistics of the last step (`last_step`) keep their gradient, for
            losses on them, and so the step's graph until the next one.
        skip_nonfinite: Whether a UBN step whose statistics are not all finite leaves the moving
            averages as they are, which one such batch would spoil for good.

    Shape:
        [N, C, H, W] to [N, C, H, W]; the statistics are per channel, over N, H and W.
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


@torch.no_grad()
def move_averages(layers: Sequence[UnsupervisedBatchNorm]) -> None:
    """Move the averages by what the layers' calls of this step collected: equations 2 and 3.

    For all layers together, which takes fewer operations; so with `skip_nonfinite`, a statistic
    that is not finite in any layer of the same settings keeps all of them from moving.
    """
    if in_backward():  # a checkpoint around the whole step: they have moved
        return
    if not any(layer._calls for layer in layers):
        missed = "The step reached no UBN layer in training mode, and unlabeled rows did nothing"
        warnings.warn(f"{missed}: was `call` given a copy of the model?", stacklevel=4)
    for turn in range(max(len(layer._calls) for layer in layers)):  # of a shared layer's calls
        alike = defaultdict(list)
        for layer in layers:
            if turn < len(layer._calls) and layer._averages[turn] is not None:
                cumulative = id(layer) if layer.momentum is None else None
                switches = layer.momentum, cumulative, layer.running_stat, layer.skip_nonfinite
                averages = layer._averages[turn]
                members = alike[*switches, averages[0].dtype, averages[0].device]
                members.append((layer, averages, layer._calls[turn].union))
        for members in alike.values():
            _move_together(members)


@torch.no_grad()
def _move_together(of: Sequence[tuple[UnsupervisedBatchNorm, Averages, Statistics]]) -> None:
    """Move the averages of layers with the same settings by one batch each."""
    layers, averages, unions = zip(*of, strict=True)
    means, variances, batches = zip(*averages, strict=True)
    running = Moments(torch.cat(means), torch.cat(variances))
    batch = Moments(*map(torch.cat, zip(*(union.unbiased for union in unions), strict=True)))
    moved, taken = layers[0]._average_after(running, batch, batches[0])
    channels = [len(mean) for mean in means]
    values = moved.mean.split(channels) + moved.var.split(channels)
    compiling = torch.compiler.is_compiling()
    for buffer, value in zip(means + variances, values, strict=True):
        # As torch's own kernel does, unseen by autograd, which may hold them for another call.
        (buffer if compiling else buffer.data).copy_(value)
    for number in batches:
        if number is not None:
            number.add_(taken)
