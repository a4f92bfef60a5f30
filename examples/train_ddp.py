"""UBN under DistributedDataParallel: statistics over the rows of all ranks, however many each has.

torchrun --nproc-per-node 2 examples/train_ddp.py
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ubnlib import convert_ubn, ubn_forward

STEPS = 40


def draw_rows(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images [number, 3, 8, 8] and whether each is brighter on the left, [number]."""
    images = torch.randn(number, 3, 8, 8, generator=generator)
    target = torch.randint(2, (number,), generator=generator)
    images[..., :4] += (2.0 * target - 1.0).view(-1, 1, 1, 1)
    return images, target


def mean_over_ranks(loss_sum: Tensor, rows: int) -> Tensor:
    """Return what each rank must call backward on, for the mean loss over the rows of all ranks.

    DDP averages the gradients of the ranks; with uneven rows, that of their mean losses would
    weigh the rows of a rank with few of them more.
    """
    total = torch.tensor(float(rows), device=loss_sum.device)
    dist.all_reduce(total)
    return loss_sum * dist.get_world_size() / total


def main() -> None:
    """Train a little, then check that all ranks have the same running statistics."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 2)
    )
    model = DistributedDataParallel(convert_ubn(net).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    data = torch.Generator().manual_seed(1 + rank)  # each rank draws its own rows
    for step in range(STEPS):
        labeled, target = draw_rows(8 + 4 * rank, data)
        # The first rank has unlabeled rows in every other step only, and an empty tensor else.
        unlabeled, _ = draw_rows(24 if rank or step % 2 else 0, data)

        output = ubn_forward(model, labeled.to(device), unlabeled.to(device))
        loss_sum = F.cross_entropy(output, target.to(device), reduction="sum")
        loss = mean_over_ranks(loss_sum, len(labeled))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        shown = loss.detach() / ranks
        dist.all_reduce(shown)
        if rank == 0 and step in (0, STEPS - 1):
            print(f"step {step + 1}: loss {shown.item():.4f}", flush=True)

    norm = model.module[1]
    mine = torch.cat([norm.running_mean, norm.running_var])
    every = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(every, mine)
    gap = max((other - mine).abs().max().item() for other in every)
    if rank == 0:
        agree = "agree" if gap < 1e-6 else "DO NOT AGREE"
        print(f"running statistics {agree} on {ranks} ranks: they differ by at most {gap:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
