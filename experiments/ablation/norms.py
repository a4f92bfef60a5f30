"""UBN's peers: other layers in the place of batch normalization.

Only what torch does not have is written here. Each works per channel, so that nets side by side
(`experiments.toy.ensemble`) may have them too.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormVariant(_BatchNorm):
    """What the variants of batch normalization share: in evaluation they are batch normalization.

    All take rows [N, C, ...].
    """

    plain = False  # be batch normalization in training mode too, to measure statistics anew

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"Expected input [N, C, ...], got {tuple(input.shape)}.")


class GhostBatchNorm(BatchNormVariant):
    """Batch normalization by parts of the batch (Hoffer et al. 2017, arXiv:1705.08741).

    A batch is cut into equal parts of about `ghost` rows; the averages move once a part.
    """

    def __init__(self, num_features: int, ghost: int) -> None:
        super().__init__(num_features)
        self.ghost = ghost

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each part by its own statistics; in evaluation by the averages."""
        if self.plain or not self.training:
            return super().forward(input)
        parts = input.tensor_split(max(1, len(input) // self.ghost))
        return torch.cat([_BatchNorm.forward(self, part) for part in parts])


class BatchRenorm(BatchNormVariant):
    """Batch Renormalization (Ioffe 2017, arXiv:1702.03275).

    In training x is normalized by the moving averages in value and by the batch in gradient:

        y = (x - mu) / sigma * r + d,   r = sigma / sigma_hat,   d = (mu - mu_hat) / sigma_hat

    with r kept within [1 / r_max, r_max], d within [-d_max, d_max], and no gradient through either.
    Both limits open in `opening` steps from (1, 0), which is batch normalization, to their values.
    """

    opening = 100

    def __init__(self, num_features: int, r_max: float, d_max: float) -> None:
        super().__init__(num_features)
        self.r_max, self.d_max, self.steps = r_max, d_max, 0

    def forward(self, input: Tensor) -> Tensor:
        """Normalize by averages and batch; in evaluation by the averages."""
        if self.plain or not self.training:
            return super().forward(input)
        r, d = self._corrections(input.detach())
        self.steps += 1
        averages = self.running_mean, self.running_var
        affine = self.weight * r, self.bias + self.weight * d
        return F.batch_norm(input, *averages, *affine, True, self.momentum, self.eps)

    def _corrections(self, x: Tensor) -> tuple[Tensor, Tensor]:
        others = [i for i in range(x.dim()) if i != 1]
        var, mean = torch.var_mean(x, others, correction=0)
        average = (self.running_var + self.eps).sqrt()
        open_by = min(1.0, self.steps / self.opening)
        r_max, d_max = 1 + open_by * (self.r_max - 1), open_by * self.d_max
        r = ((var + self.eps).sqrt() / average).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / average).clamp(-d_max, d_max)
        return r, d


class SplitBatchNorm(BatchNormVariant):
    """Own statistics for labeled and for unlabeled rows (Xie et al. 2020, arXiv:1911.09665).

    Without a loss on the unlabeled rows this is batch normalization. `first` says how many rows,
    the labeled ones, come first; evaluation uses their averages. Scale and shift are shared.
    """

    first: int | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each kind of rows by its own statistics; in evaluation by the averages."""
        if self.plain or not self.training or self.first is None:
            return super().forward(input)
        labeled = super().forward(input[: self.first])
        others = F.batch_norm(
            input[self.first :], None, None, self.weight, self.bias, training=True, eps=self.eps
        )
        return torch.cat([labeled, others])


def replace_norms(model: nn.Module, make: Callable[[_BatchNorm], nn.Module]) -> nn.Module:
    """Put what `make` returns for it in the place of each batch normalization, in place."""
    return _replace(model, _BatchNorm, make)


def add_dropout(model: nn.Module, rate: float) -> nn.Module:
    """Put dropout behind every ReLU, in place."""
    return _replace(model, nn.ReLU, lambda relu: nn.Sequential(relu, nn.Dropout(rate)))


def _replace(
    model: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))
    return model
