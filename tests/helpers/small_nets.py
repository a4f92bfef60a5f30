"""A small convolutional net with two normalizations, rows for it, and one step of training."""

import torch
from torch import nn

from ubnlib import collecting, ubn_forward, using


def network(seed=0, dtype=torch.float64):
    """Its gamma, beta and moving averages are away from their start."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 2),
        nn.BatchNorm2d(4, affine=False),
    ).to(dtype)
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
        model[1].bias.normal_()
        for bn in (model[1], model[4]):
            bn.running_mean.normal_(std=0.3)
            bn.running_var.uniform_(0.5, 2)
    return model


def rows(n, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(n, 3, 8, 7, generator=generator, dtype=dtype)


def objective(output):
    """A loss that adds up over rows and is no symmetric function of their values."""
    shape = output.shape[1:]
    return (output.sin() * torch.arange(shape.numel(), dtype=output.dtype).view(shape)).sum()


def by_hand(model, x, y):
    with collecting(model, rows=(len(x), len(y))):
        model(torch.cat([x, y]))
    with using(model):
        return model(x)


def interleaved(model, x, y):
    return ubn_forward(model, x, y, interleave=True)


def train(model, x, y, forward, steps=2, gap=None):
    """Return output, gradients and buffers after steps; the second finds the averages moved.

    `gap(model)` is added to the loss.
    """
    for _ in range(steps):
        model.zero_grad()
        output = forward(model, x, y)
        loss = objective(output)
        (loss if gap is None else loss + gap(model)).backward()
    # Wrappers put prefixes before the names.
    buffers = {".".join(name.split(".")[-2:]): b.clone() for name, b in model.named_buffers()}
    return output.detach(), [p.grad for p in model.parameters()], buffers
