"""UBN in a loop of accelerate: the digits of classifier.py, in one process or in several.

accelerate launch --num-processes 2 examples/train_accelerate.py
"""

import sys

import torch
import torch.nn.functional as F
from classifier import LABELED_BATCH, UNLABELED_BATCH, digits, endless, make_net, shuffled
from torch.utils.data import DataLoader

from ubnlib import convert_ubn, ubn_forward

try:
    from accelerate import Accelerator
    from accelerate.utils import set_seed
except ImportError as error:
    sys.exit(f"This example needs accelerate (pip install accelerate): {error}")


def main() -> None:
    """Train, and say whether the processes share their statistics."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.set_num_threads(1)
    set_seed(0)
    rank, processes = accelerator.process_index, accelerator.num_processes
    labeled, unlabeled, test = digits(seed=0)
    net = convert_ubn(make_net())
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    loader = shuffled(labeled, LABELED_BATCH // processes, seed=0)
    # accelerate splits the labeled rows over the processes; the endless side has another seed in
    # each instead.
    extra = endless(shuffled(unlabeled, UNLABELED_BATCH, seed=rank))
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)

    steps = 0
    for _ in range(10):
        for images, labels in loader:
            output = ubn_forward(model, images, next(extra).to(accelerator.device))
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(output, labels))
            optimizer.step()
            steps += 1

    last = net[1].last_step[0].union
    mine = torch.cat([last.mean, last.var])
    gap = (accelerator.gather(mine).view(processes, -1) - mine).abs().max().item()
    images, labels = next(iter(DataLoader(test, len(test))))
    with torch.no_grad():
        predicted = net.eval()(images.to(accelerator.device)).argmax(1).cpu()
    accuracy = (predicted == labels).float().mean().item()
    accelerator.print(
        f"test accuracy {accuracy:.2f} after {steps} steps of {processes} process(es)"
    )
    agree = "agree" if gap < 1e-6 else "DO NOT AGREE"
    accelerator.print(f"the last statistics {agree}: they differ by at most {gap:.1e}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
