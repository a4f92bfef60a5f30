"""The training steps that are compared, and how their time and memory are measured."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ubnlib import DispNet, UnsupervisedBatchNorm2d, convert_ubn, ubn_forward
from ubnlib.records import Config
from ubnlib.steps import two_passes

METHODS = ("BN", "two passes", "joint pass", "ubn_forward")
WARM_UP = 2  # rounds that are not timed
MEMORY_STEPS = 2  # the second step shows what the first one's freed memory is good for
LAYER_CALLS = 100  # of one layer in eval mode, timed together

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


def layers_in_eval(device: str, rows: int) -> dict[str, Step]:
    """Make calls of one layer in eval mode, plain and UBN."""
    x = torch.randn(rows, 64, 16, 16, device=device)

    def calls_of(layer: nn.Module) -> Step:
        layer = layer.to(device).eval()

        @torch.no_grad()
        def call() -> None:
            for _ in range(LAYER_CALLS):
                layer(x)

        return call

    return {cls.__name__: calls_of(cls(64)) for cls in (nn.BatchNorm2d, UnsupervisedBatchNorm2d)}


def alternate(
    steps: dict[str, Step], repeats: int, device: str, tick: Step = lambda: None
) -> dict[str, list[float]]:
    """Time each step once per repeat, in rotating order, so that noise hits all alike.

    Returns:
        Milliseconds by name of the step, one for each repeat.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    names, times = list(steps), {name: [] for name in steps}
    for repeat in range(-WARM_UP, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            if repeat >= 0:
                times[name].append(round(1000 * (time.perf_counter() - start), 3))
            tick()
    return times


def peak_on_gpu(step: Step) -> float:
    """Return by how many MB a step's tensors exceed, at most, what was allocated before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def peak_of_process(step: Step) -> float:
    """Return by how many MB this process exceeds, at most, what it held before its first step.

    Linux only. The kernel's own mark for this program: `getrusage` would begin with the peak of
    the process that started this one.
    """
    before = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(MEMORY_STEPS):
        step()
    return round(_status_mb("VmHWM") - before, 1)


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**10  # given in kB
    raise OSError(f"/proc/self/status has no {field}: memory cannot be measured on this system.")
