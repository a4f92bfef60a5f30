"""Handwritten digits with few labels: a plain training loop, with BN and with UBN side by side.

The images are scikit-learn's: 1,797 of 8x8 pixels. Some are labeled, 500 are for testing and the
others are unlabeled. Both nets begin with the same weights and see the same labeled batches.

    python examples/classifier.py
"""

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from ubnlib import convert_ubn, ubn_forward

LABELED, TEST = 100, 500
EPOCHS, LABELED_BATCH, UNLABELED_BATCH, LEARNING_RATE = 10, 10, 40, 3e-3


def digits(seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Return labeled, unlabeled and test images [1, 8, 8] with their digits, drawn by the seed."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    dataset = TensorDataset(images, torch.tensor(bunch.target))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    sizes = [LABELED, len(dataset) - LABELED - TEST, TEST]
    labeled, unlabeled, test = (Subset(dataset, part.tolist()) for part in order.split(sizes))
    return labeled, unlabeled, test


def shuffled(dataset: Dataset, batch: int, seed: int) -> DataLoader:
    """Return a loader of whole batches, in another order at each pass; the seed says which."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch, shuffle=True, drop_last=True, generator=generator)


def endless(loader: DataLoader) -> Iterator[Tensor]:
    """Yield the loader's images, without the labels, pass after pass."""
    while True:
        for images, _ in loader:
            yield images


def make_net() -> nn.Module:
    """Return a convolutional classifier with plain batch normalization."""
    layers: list[nn.Module] = []
    for inputs, outputs in [(1, 16), (16, 32)]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, 10))


def train(model: nn.Module, labeled: DataLoader, unlabeled: Iterator[Tensor] | None) -> None:
    """Train on the labels; unlabeled images, where there are any, only enter the statistics."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model.train()
    for _ in range(EPOCHS):
        for images, labels in labeled:
            extra = None if unlabeled is None else next(unlabeled)
            output = ubn_forward(model, images, extra)  # with None, this is model(images)
            optimizer.zero_grad()
            F.cross_entropy(output, labels).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, test: Dataset) -> float:
    """Return the share of images that are classified correctly, in evaluation."""
    images, labels = next(iter(DataLoader(test, TEST)))
    return (model.eval()(images).argmax(1) == labels).float().mean().item()


def compare(seed: int) -> tuple[float, float]:
    """Return the test accuracies of BN and of UBN."""
    labeled, unlabeled, test = digits(seed)
    torch.manual_seed(seed)
    bn = make_net()
    ubn = convert_ubn(copy.deepcopy(bn))
    train(bn, shuffled(labeled, LABELED_BATCH, seed), None)
    extra = endless(shuffled(unlabeled, UNLABELED_BATCH, seed))
    train(ubn, shuffled(labeled, LABELED_BATCH, seed), extra)
    return accuracy(bn, test), accuracy(ubn, test)


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
    parser.add_argument("--seeds", type=int, default=6, help="how many (default: 6)")
    seeds = parser.parse_args().seeds
    if seeds < 2:
        parser.error(f"--seeds is {seeds}: a spread needs at least 2.")
    torch.set_num_threads(1)
    results = np.array([compare(seed) for seed in range(seeds)])
    print(f"{LABELED} labeled images; a batch has {LABELED_BATCH} of them, and for UBN")
    print(f"{UNLABELED_BATCH} unlabeled ones beside. Test accuracy over {seeds} seeds:")
    print("      mean   std    min    max")
    for name, column in zip(["BN", "UBN"], results.T, strict=True):
        print(
            f"{name:4}  {column.mean():.3f}  {column.std(ddof=1):.3f}  "
            f"{column.min():.3f}  {column.max():.3f}"
        )
    print(verdict(results[:, 1] - results[:, 0]))


if __name__ == "__main__":
    main()
