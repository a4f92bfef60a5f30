"""The training steps that are compared: models, data and methods."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.common.records import Config
from ubnlib import DispNet, convert_ubn, ubn_forward
from ubnlib.forward import two_passes

METHODS = ("BN", "two passes", "joint pass", "ubn_forward")

Step = Callable[[], Any]


class Setting(Config):
    """What all methods of one comparison share."""

    device: Literal["cpu", "cuda"]
    model: Literal["dispnet", "resnet"]
    width: float
    size: tuple[int, int]  # height and width of the images
    rows: int  # labeled rows
    precision: Literal["fp32", "bf16"]
    layout: Literal["contiguous", "channels_last"]
    mode: Literal["eager", "compiled"]
    threads: int

    @property
    def name(self) -> str:
        """All of it as the stem of a file's name."""
        size = "x".join(map(str, self.size))
        model = f"{self.model}-{self.width:g}-{size}-{self.rows}rows"
        how = f"{self.precision}-{self.layout}-{self.mode}"
        return f"{self.device}-{model}-{how}-{self.threads}threads"


class Workload(NamedTuple):
    """A model with its loss, and what it is measured on by default."""

    make: Callable[[float], nn.Module]  # from the width
    loss: Callable[[Any, int], Tensor]  # from the outputs, of which the first rows are labeled
    rows: int
    size: tuple[int, int]


class ResidualBlock(nn.Module):
    """The basic block of ResNets: two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_resnet(width: float) -> nn.Sequential:
    """Make a stem, three stages of two blocks, and a classifier of ten classes."""
    channels = [max(1, round(width * wanted)) for wanted in (32, 64, 128)]
    stem = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
    layers = [stem, nn.BatchNorm2d(channels[0]), nn.ReLU()]
    inputs = channels[0]
    for outputs in channels:
        stride = 1 if outputs is channels[0] else 2
        layers += [ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def depth_loss(depths: tuple[Tensor, ...], rows: int) -> Tensor:
    """Average the labeled rows' logarithmic depth over pixels and then over resolutions."""
    return torch.stack([depth[:rows].log().mean() for depth in depths]).mean()


def class_loss(logits: Tensor, rows: int) -> Tensor:
    """Return the cross entropy of the labeled rows, whose classes take turns."""
    return F.cross_entropy(logits[:rows], torch.arange(rows, device=logits.device) % 10)


WORKLOADS = {
    "dispnet": Workload(lambda width: DispNet(width=width), depth_loss, 4, (128, 416)),
    "resnet": Workload(small_resnet, class_loss, 32, (32, 32)),
}


def training_step(setting: Setting, k: int, method: str) -> Step:
    """Make a training step: forward, loss and backward, which returns the loss.

    Args:
        setting: Model, data and device; equal settings give equal weights and images.
        k: Unlabeled rows per labeled row.
        method: One of `METHODS`; "joint pass" is plain BN on all rows, with gradient.
    """
    torch.manual_seed(0)
    workload, rows = WORKLOADS[setting.model], setting.rows
    layout = getattr(torch, f"{setting.layout}_format", torch.channels_last)
    model = workload.make(setting.width).to(setting.device, memory_format=layout).train()
    images = torch.randn((1 + k) * rows, 3, *setting.size).to(setting.device, memory_format=layout)
    labeled, unlabeled = images.split([rows, k * rows])
    if method in ("two passes", "ubn_forward"):
        convert_ubn(model)
    if setting.mode == "compiled":  # fullgraph: an error where it would fall back to eager
        model = torch.compile(model, fullgraph=True, dynamic=False)
    forward = {
        "BN": lambda: model(labeled),
        "two passes": lambda: two_passes(model, labeled, unlabeled),
        "joint pass": lambda: model(torch.cat([labeled, unlabeled])),
        "ubn_forward": lambda: ubn_forward(model, labeled, unlabeled),
    }[method]
    autocast = torch.autocast(setting.device, torch.bfloat16, setting.precision == "bf16")

    def step() -> Tensor:
        with autocast:
            loss = workload.loss(forward(), rows)
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    return step
