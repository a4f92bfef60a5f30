"""Unsupervised Batch Normalization written once more from the paper's equations.

Three streams advance side by side, layer by layer: `x`, the labeled rows as step 2 sees them;
`first`, the same rows as step 1 sees them; and `y`, the unlabeled rows. Sums and plain arithmetic
only: no ubnlib, no F.batch_norm, no separate steps. To be used in float64, where the mean of
squares is exact enough.
"""

from torch import nn


def channel(v, x):
    return v.reshape(1, -1, *[1] * (x.dim() - 2))


def moments(*streams, weight=None):
    """Mean, biased variance and count per channel over all rows and positions of all streams.

    All values weigh alike, or those of the second of two streams `weight` together.
    """
    values = [s.transpose(0, 1).flatten(1) for s in streams]  # [C, values] each
    n = sum(v.shape[1] for v in values)
    shares = [v.shape[1] / n for v in values] if weight is None else [1 - weight, weight]
    mean = sum(share * v.sum(1) / v.shape[1] for share, v in zip(shares, values, strict=True))
    square = sum(
        share * (v**2).sum(1) / v.shape[1] for share, v in zip(shares, values, strict=True)
    )
    return mean, square - mean**2, n


class OracleNorm:
    def __init__(self, bn, stats_grad, source, running_stat, momentum, unlabeled_weight):
        self.bn, self.stats_grad, self.source = bn, stats_grad, source
        self.running_stat, self.momentum, self.weight = running_stat, momentum, unlabeled_weight
        self.running = (bn.running_mean.clone(), bn.running_var.clone())

    def affine(self, x_hat):
        if self.bn.weight is None:
            return x_hat
        return channel(self.bn.weight, x_hat) * x_hat + channel(self.bn.bias, x_hat)

    def apply(self, x, mean, var):
        return (x - channel(mean, x)) / channel((var + self.bn.eps) ** 0.5, x)

    def averages(self, mean_n, var_n, n):
        """Equations 2 and 3, in torch's convention: unbiased variance, momentum = 1 - lambda."""
        m, unbiased = self.momentum, var_n * n / (n - 1)
        mean = (1 - m) * self.running[0] + m * mean_n
        if self.running_stat == "var":
            return mean, (1 - m) * self.running[1] + m * unbiased
        return mean, ((1 - m) * self.running[1] ** 0.5 + m * unbiased**0.5) ** 2

    def __call__(self, x, first, y):
        carriers = {
            "all": (first, y),
            "labeled": (x, y.detach()),
            "none": (first.detach(), y.detach()),
            "corrected": (first.detach(), y.detach()),
        }[self.stats_grad]
        mean, var, n = moments(*carriers, weight=self.weight)
        after = self.averages(mean, var, n)
        self.running = tuple(a.detach() for a in after)
        if self.source == "running":
            mean, var = after
        x_hat = self.apply(x, mean, var)  # equation 4
        if self.stats_grad == "corrected":
            mean_x, var_x, _ = moments(x)
            sigma_x, sigma = (var_x + self.bn.eps) ** 0.5, (var + self.bn.eps) ** 0.5
            r, d = (sigma_x / sigma).detach(), ((mean_x - mean) / sigma).detach()
            x_hat = self.apply(x, mean_x, var_x) * channel(r, x) + channel(d, x)
        mean_1, var_1, _ = moments(first, y, weight=self.weight)
        outputs = x_hat, self.apply(first, mean_1, var_1), self.apply(y, mean_1, var_1)
        return tuple(self.affine(o) for o in outputs)


def oracle_forward(
    model,
    x,
    y,
    *,
    stats_grad,
    source="batch",
    running_stat="var",
    momentum=0.1,
    unlabeled_weight=None,
):
    """Return the labeled output and each normalization's running (mean, var) after the step."""
    streams, running = (x, x, y), []
    for layer in model:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            norm = OracleNorm(layer, stats_grad, source, running_stat, momentum, unlabeled_weight)
            streams = norm(*streams)
            running.append(norm.running)
        else:
            streams = tuple(layer(s) for s in streams)
    return streams[0], running


def oracle_training(net, batches, optimizer, options):
    """Train a net in place on batches (x, target, y) by cross entropy; return the loss of each.

    `options` are those of `oracle_forward`; None is batch normalization, which does not see y.
    """
    norms = [layer for layer in net if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    losses = []
    for x, target, y in batches:
        if options is None:
            output = net(x)
        else:
            output, running = oracle_forward(net, x, y, **options)
            for norm, (mean, var) in zip(norms, running, strict=True):
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(var)
        loss = nn.functional.cross_entropy(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
