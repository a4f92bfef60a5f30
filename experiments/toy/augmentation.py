"""Figure 5: the change of the inputs that equals a change of the batch statistics.

Predict the labeled points with the statistics of one batch, change the batch, and move the points
until the predictions are the earlier ones: to where they moved, the change of statistics has
augmented them. The paper says that they follow the manifold, and that near the decision boundary
they push it away.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.toy.ensemble import Ensemble
from experiments.toy.least_squares import match
from experiments.toy.points import SpiralData, tangent
from experiments.toy.reference import frozen, random_batch
from experiments.toy.train import SpiralTraining

Reading = Literal["prediction", "layer1", "layer2", "layer3", "layer4"]


class Augmentation(NamedTuple):
    """Points [N, E, 2] as moved by C changes of statistics.

    Attributes:
        moved: Where each point ended, [C, N, E, 2].
        converged: Whether it found what it searched, [C, N, E]: equal predictions, or the place
            where the features differ least.
        explained: 1 - |r|^2 / |r0|^2, [C, N, E]: the share of the change of the prediction or the
            features, r0, that moving the point undoes. 1 undoes all of it.
    """

    moved: Tensor
    converged: Tensor
    explained: Tensor


def implicit_augmentation(
    net: Ensemble,
    points: Tensor,
    before: Tensor,
    after: Tensor,
    reading: Reading = "prediction",
    *,
    tolerance: float = 1e-3,
) -> Augmentation:
    """Move points until changed statistics give them what the earlier statistics gave.

    Args:
        net: Trained nets with UBN or batch normalization, as `SpiralNet` has it: behind linear
            layers. They are left as they were.
        points: [N, E, 2], those of each net.
        before: The reference batches [C, M, E, 2] of C changes: those behind the old statistics.
        after: Those behind the new ones, [C, M, E, 2].
        reading: What shall be equal. `"prediction"` is the log-odds of the two classes, which tell
            a point's margin also where its probability is 0 or 1 to many digits; there, equal
            probabilities are found without moving. `"layer1"` to `"layer4"` are the features
            behind that normalization, before the ReLU: as many values as the layer has units, of
            which moving a point in the plane can restore only a part.
        tolerance: Largest difference that counts as equal, in the unit of the reading.

    Raises:
        ValueError: The nets have no such layer.
    """
    net, points = copy.deepcopy(net).double(), points.double()
    old, new = (
        _values([frozen(net, batch) for batch in batches.double()], reading)
        for batches in (before, after)
    )
    start = points.expand(len(before), *points.shape)
    target = old(start)
    found = match(new, target, start, tolerance=tolerance)
    change = (new(start) - target).square().sum(-1)
    left = found.residual.square().sum(-1)
    converged = found.matched if reading == "prediction" else found.settled
    return Augmentation(found.moved, converged, 1 - left / change)


def changes_of_statistics(
    config: SpiralTraining, data: SpiralData, changes: int
) -> tuple[Tensor, Tensor]:
    """Draw the reference batches [C, M, E, 2] before and after each change of statistics.

    They are random unlabeled batches for UBN, as in Figure 4; for batch normalization they are
    labeled batches, which give the statistics in its training. Each seed draws its own.
    """
    unlabeled = config.norm.kind == "ubn"
    points = data.unlabeled if unlabeled else data.labeled
    size = config.unlabeled_batch if unlabeled else config.labeled_batch
    generators = [torch.Generator().manual_seed(20_000 + seed) for seed in config.seeds]
    batches = [
        torch.stack(
            [
                random_batch(own, size, g)
                for own, g in zip(points.unbind(1), generators, strict=True)
            ],
            1,
        )
        for _ in range(2 * changes)
    ]
    return torch.stack(batches[::2]), torch.stack(batches[1::2])


def share_of_any_change(
    net: Ensemble, points: Tensor, reference: Tensor, reading: Reading
) -> Tensor:
    """Return which share of the squared displacements would lie along the arm for any change.

    What a tangent share is to be compared with besides the 1/2 of isotropic noise: the share that
    undoes a small random change of the reading itself, alike in all its values. It tells how the
    nets stretch the plane along and across the arms, and nothing of the statistics. Features that
    hardly change along an arm give nearly 1, since there it takes a long way to change them.
    Log-odds give nearly 0, since the shortest way to others is straight across.

    Args:
        net: The nets.
        points: [N, E, 2].
        reference: The batch [M, E, 2] whose statistics the nets have.
        reading: As in `implicit_augmentation`.

    Returns:
        The mean over points, [E]; a point at the center has no share.
    """
    part = _up_to(frozen(copy.deepcopy(net).double(), reference.double()), reading)
    points = points.double()
    along = tangent(points)
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    slope_along, slope_across = (
        jvp(part, (points,), (direction,))[1].square().sum(-1) for direction in (along, across)
    )
    # One value: the step J'r / |J|^2. More: the covariance (J'J)^-1, whose diagonal is swapped.
    share = slope_along if reading == "prediction" else slope_across
    return (share / (slope_along + slope_across)).nanmean(0)


def _values(nets: Sequence[Ensemble], reading: Reading) -> Callable[[Tensor], Tensor]:
    """Return the function of points [C, N, E, 2] that reads C frozen nets: [C, N, E, K]."""
    parts = [_up_to(net, reading) for net in nets]
    state = stack_module_state(parts)

    def values(points: Tensor) -> Tensor:
        return vmap(lambda one, rows: functional_call(parts[0], one, (rows,)))(state, points)

    return values


def _up_to(net: Ensemble, reading: Reading) -> Ensemble:
    """Return a frozen net up to what is read, its normalizations folded into the linear layers.

    Folded, because the derivatives then take a third of the time.
    """
    net = copy.deepcopy(net)
    layers: list[nn.Module] = []
    norms = 0
    for layer in net.layers:
        if not isinstance(layer, _BatchNorm):
            layers.append(layer)
            continue
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        shift = layer.bias - layer.running_mean * scale
        scale, shift = (values.unflatten(0, (net.members, -1)) for values in (scale, shift))
        linear = layers[-1]
        linear.weight.copy_(linear.weight * scale[..., None])
        linear.bias.copy_(linear.bias * scale + shift)
        norms += 1
        if reading == f"layer{norms}":
            break
    else:
        if reading != "prediction":
            raise ValueError(
                f"There is no {reading} to match: the nets have {norms} normalization layers."
            )
        last = layers[-1]
        last.weight = nn.Parameter(last.weight[:, 1:] - last.weight[:, :1], requires_grad=False)
        last.bias = nn.Parameter(last.bias[:, 1:] - last.bias[:, :1], requires_grad=False)
    net.layers = nn.Sequential(*layers)
    return net
