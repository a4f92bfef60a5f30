"""The paper's two steps in as few lines as possible, on top of torch alone.

What `preset="paper"` of the library does, for one device and 2d layers, to be read beside
section 3.2. Use the library for your own models.
"""

import torch
from torch import nn
from torch.nn.functional import batch_norm


class MinimalUBN(nn.BatchNorm2d):
    """Collects the statistics of a batch in step 1 and normalizes by them in step 2."""

    decay = 0.9  # lambda of equations 2 and 3
    collecting = False

    def forward(self, x):
        """Normalize x [N, C, H, W]."""
        if not self.training:
            return super().forward(x)  # by the averages of equations 2 and 3
        if self.collecting:
            self.variance, self.mean = torch.var_mean(x, (0, 2, 3), correction=0)  # of n = {x, y}
            self.running_mean.lerp_(self.mean, 1 - self.decay)  # equation 2
            sigma = self.running_var.sqrt().lerp(x.std((0, 2, 3)), 1 - self.decay)  # equation 3
            self.running_var.copy_(sigma**2)  # where torch's layer keeps a variance
        # Equation 1 with the statistics of equation 4, which are constants in the backward pass.
        return batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=self.eps)


def two_steps(model, labeled, unlabeled):
    """Return the model's output for the labeled rows, ready for backward."""
    layers = [layer for layer in model.modules() if isinstance(layer, MinimalUBN)]
    for layer in layers:
        layer.collecting = True
    with torch.no_grad():
        model(torch.cat([labeled, unlabeled]))  # step 1: both batches
    for layer in layers:
        layer.collecting = False
    return model(labeled)  # step 2: the labeled batch alone
