"""One of two gloo processes of test_distributed.py: `python ddp_worker.py RANK FOLDER`."""

import copy
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ubnlib import collecting, convert_ubn, refresh_statistics, statistics_gap, ubn_forward, using
from ubnlib.forward import side_by_side

WORLD = 2
# How many labeled and unlabeled rows each rank has.
SPLITS = {
    "uneven": ((3, 2), (5, 1)),
    "no unlabeled rows on one rank": ((3, 2), (6, 0)),
    "no labeled rows on one rank": ((5, 0), (2, 4)),
    "one rank has nothing": ((5, 0), (6, 0)),
}
READINGS = {
    "corrected": dict(),
    "none": dict(stats_grad="none"),
    "labeled": dict(stats_grad="labeled"),
    "all": dict(stats_grad="all"),
    "corrected, running": dict(source="running"),
    "all, running, cumulative": dict(source="running", stats_grad="all", momentum=None),
    "none, standard deviation": dict(stats_grad="none", running_stat="std"),
    "weighted": dict(unlabeled_weight=0.8),
}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3)
    ).double()
    with torch.no_grad():
        for bn in (model[1], model[4]):
            bn.weight.uniform_(0.5, 2)
            bn.bias.normal_()
    return model


def rows(split):
    """All labeled and unlabeled rows, and the ones of each rank."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(sum(n), 2, 7, 6, generator=generator, dtype=torch.float64) for n in split)
    return x, 1 + 2 * y, x.split(split[0]), (1 + 2 * y).split(split[1])


def objective(output):
    """A loss that adds up over rows and is no symmetric function of them."""
    weights = torch.arange(output.shape[1:].numel(), dtype=output.dtype).view(output.shape[1:])
    return (output.sin() * weights).sum()


def by_hand(model, x, y):
    with collecting(model, rows=(len(x), len(y))):
        model(torch.cat([x, y]))
    with using(model):
        return model(x)


def compiled(model):
    return torch.compile(model, backend="eager")


def step(model, x, y, forward, gap=0.0):
    """Two steps of training, as one finds the averages of the first changed in the second."""
    for _ in range(2):
        model.zero_grad()
        output = forward(model, x, y)
        loss = objective(output)
        if gap:
            loss = loss + gap * statistics_gap(model)
        loss.backward()
    # Wrappers put prefixes before the names.
    state = {".".join(name.split(".")[-2:]): b.clone() for name, b in model.named_buffers()}
    return output.detach(), [p.grad for p in model.parameters()], state


def main(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    results = {}
    for split_name, split in SPLITS.items():
        _, _, xs, ys = rows(split)
        for reading, options in READINGS.items():
            model = DistributedDataParallel(convert_ubn(network(), **options))
            if options.get("source") != "running":
                at_once = step(model, xs[rank], ys[rank], side_by_side)
                results[split_name, reading, "at once"] = at_once
            model = DistributedDataParallel(convert_ubn(network(), **options))
            results[split_name, reading, "by hand"] = step(model, xs[rank], ys[rank], by_hand)
    _, _, xs, ys = rows(SPLITS["uneven"])

    model = DistributedDataParallel(convert_ubn(network()))
    results["gap"] = step(model, xs[rank], ys[rank], side_by_side, gap=10.0)

    # One rank has little data and the other has not, yet both must go the same way.
    generator = torch.Generator().manual_seed(rank)
    many = torch.randn(3000 if rank else 3, 2, 7, 6, generator=generator, dtype=torch.float64)
    model = DistributedDataParallel(convert_ubn(network()))
    results["lopsided"] = step(model, xs[rank], many, ubn_forward)[0], many

    for way, wrap in {"inside": nn.Sequential, "compiled": compiled}.items():
        model = wrap(DistributedDataParallel(convert_ubn(network())))
        results[way] = step(model, xs[rank], ys[rank], ubn_forward)

    sync = convert_ubn(nn.SyncBatchNorm.convert_sync_batchnorm(network()))
    output = side_by_side(sync, xs[rank], ys[rank])
    results["sync"] = output.detach(), {name: b.clone() for name, b in sync.named_buffers()}

    # Three batches on one rank and one on the other.
    model = DistributedDataParallel(convert_ubn(network()))
    batches = ys[rank].split(2) if rank == 0 else [ys[rank]]
    first = DistributedDataParallel(convert_ubn(copy.deepcopy(network()[:2])))
    refresh_statistics(first, batches)
    results["refresh"] = {name: b.clone() for name, b in first.module.named_buffers()}

    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(int(sys.argv[1]), sys.argv[2])
