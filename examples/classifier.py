"""A small image classifier with few labels, trained with BN and with UBN side by side.

The task is drawn here: a disk, a square, a cross or a ring somewhere in a noisy image of varying
brightness and contrast. Of each seed's images, 64 are labeled and 512 more are not. Both nets begin
with the same weights, see the same labeled batches and make the same number of steps.

    python examples/classifier.py
"""

import argparse
import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ubnlib import convert_ubn, ubn_forward

CLASSES, SIZE = 4, 16
LABELED, UNLABELED, TEST = 64, 512, 1000
STEPS, BATCH, LEARNING_RATE = 100, 64, 2e-3  # BATCH: labeled and unlabeled rows together


def draw_images(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images [number, 1, 16, 16] and which shape each one shows, [number]."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(number, 1, 1, generator=generator)

    shape = torch.arange(number) % CLASSES
    shape = shape[torch.randperm(number, generator=generator)]
    line = torch.arange(SIZE, dtype=torch.float32)
    dy, dx = (line.view(-1, 1) - uniform(5, 10)).abs(), (line - uniform(5, 10)).abs()
    distance, radius = torch.hypot(dx, dy), uniform(3, 5)
    shapes = torch.stack(
        [
            distance < radius,
            torch.maximum(dx, dy) < radius,
            (torch.minimum(dx, dy) < radius / 3) & (torch.maximum(dx, dy) < radius),
            (distance < radius) & (distance > radius / 2),
        ]
    )
    image = uniform(-1, 1) + uniform(0.5, 2) * shapes[shape, torch.arange(number)]
    image = image + 0.2 * torch.randn(image.shape, generator=generator)
    return image.unsqueeze(1), shape


def make_net() -> nn.Module:
    """Return a convolutional classifier with plain batch normalization."""
    layers: list[nn.Module] = []
    for inputs, outputs in [(1, 8), (8, 16), (16, 32)]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, CLASSES))


def train(
    model: nn.Module,
    labeled: Tensor,
    labels: Tensor,
    unlabeled: Tensor | None,
    *,
    labeled_batch: int,
    seed: int,
) -> None:
    """Train on the labels; unlabeled images, where there are any, only enter the statistics."""
    labeled_batches = torch.Generator().manual_seed(seed)
    unlabeled_batches = torch.Generator().manual_seed(seed + 1000)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for _ in range(STEPS):
        x = torch.randint(len(labeled), (labeled_batch,), generator=labeled_batches)
        extra = None
        if unlabeled is not None:
            y = torch.randint(len(unlabeled), (BATCH - labeled_batch,), generator=unlabeled_batches)
            extra = unlabeled[y]
        output = ubn_forward(model, labeled[x], extra)  # with None, this is model(labeled[x])
        optimizer.zero_grad()
        F.cross_entropy(output, labels[x]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified correctly, in evaluation."""
    return (model.eval()(images).argmax(1) == labels).float().mean().item()


def compare(seed: int, labeled_batch: int) -> tuple[float, float]:
    """Return the test accuracies of BN and of UBN."""
    torch.manual_seed(seed)
    images = torch.Generator().manual_seed(seed)
    labeled, labels = draw_images(LABELED, images)
    unlabeled, _ = draw_images(UNLABELED, images)
    test = draw_images(TEST, images)

    bn = make_net()
    ubn = convert_ubn(copy.deepcopy(bn))
    train(bn, labeled, labels, None, labeled_batch=labeled_batch, seed=seed)
    train(ubn, labeled, labels, unlabeled, labeled_batch=labeled_batch, seed=seed)
    return accuracy(bn, *test), accuracy(ubn, *test)


def verdict(difference: np.ndarray) -> str:
    """Say what paired differences UBN - BN show, one for each seed."""
    seeds, mean = len(difference), difference.mean()
    error = difference.std(ddof=1) / np.sqrt(seeds)
    numbers = f"UBN - BN = {mean:+.3f}, standard error {error:.3f}, {seeds} seeds"
    if abs(mean) < 2 * error:
        return f"{numbers}: no difference that these seeds can show."
    if mean > 0:
        return f"{numbers}: UBN helps on this task."
    return f"{numbers}: UBN does not help on this task, BN is better."


def main() -> None:
    """Compare over several seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="how many, at least 2 (default: 6)")
    parser.add_argument(
        "--labeled-batch", type=int, default=16, help="labeled rows in a batch (default: 16)"
    )
    options = parser.parse_args()
    seeds, labeled_batch = options.seeds, options.labeled_batch
    if seeds < 2:
        parser.error(f"--seeds is {seeds}: a spread needs at least 2.")
    if not 2 <= labeled_batch < BATCH:
        parser.error(f"--labeled-batch is {labeled_batch}: it must be from 2 to {BATCH - 1}.")
    torch.set_num_threads(1)
    results = np.array([compare(seed, labeled_batch) for seed in range(seeds)])
    print(f"{LABELED} labeled images, {UNLABELED} unlabeled, {seeds} seeds; a batch of UBN has")
    print(f"{labeled_batch} labeled and {BATCH - labeled_batch} unlabeled images. Test accuracy:")
    print("      mean   std    min    max")
    for name, column in zip(["BN", "UBN"], results.T, strict=True):
        print(
            f"{name:4}  {column.mean():.3f}  {column.std(ddof=1):.3f}  "
            f"{column.min():.3f}  {column.max():.3f}"
        )
    print(verdict(results[:, 1] - results[:, 0]))


if __name__ == "__main__":
    main()
