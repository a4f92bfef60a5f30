"""One of two gloo processes, `python ddp_worker.py RANK FOLDER WORK`; `run` starts them."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import small_nets
from small_nets import by_hand, interleaved, network, objective, train
from ubnlib import convert_ubn, refresh_statistics, statistics_gap, ubn_forward

WORLD = 2
# How many labeled and unlabeled rows each rank has.
SPLITS = {
    "uneven": ((3, 2), (5, 1)),
    "no unlabeled rows on one rank": ((3, 2), (6, 0)),
    "no labeled rows on one rank": ((5, 0), (2, 4)),
    "one rank has nothing": ((5, 0), (6, 0)),
}
# Of no rank. With constants or averages a step of several ranks is no plain batch normalization.
NO_UNLABELED, NO_UNLABELED_READINGS = ((3, 2), (0, 0)), ("corrected", "labeled", "all")
READINGS = {
    "corrected": dict(),
    "none, standard deviation": dict(stats_grad="none", running_stat="std"),
    "labeled": dict(stats_grad="labeled"),
    "all": dict(stats_grad="all"),
    "corrected, running": dict(source="running"),
    "all, running, cumulative": dict(source="running", stats_grad="all", momentum=None),
    "weighted": dict(unlabeled_weight=0.8),
}
WAYS = [ubn_forward, interleaved, by_hand]


def rows(split):
    """All labeled and unlabeled rows, and the ones of each rank."""
    x, y = (small_nets.rows(sum(n), seed) for seed, n in enumerate(split))
    y = 2 * y - 4
    return x, y, x.split(split[0]), y.split(split[1])


def gap(model):
    return 10 * statistics_gap(model)


def wrapped(**options):
    return DistributedDataParallel(convert_ubn(network(), **options))


class StepInside(nn.Module):
    def __init__(self, interleave):
        super().__init__()
        self.net, self.interleave = convert_ubn(network()), interleave

    def forward(self, x, y):
        return ubn_forward(self.net, x, y, interleave=self.interleave)


def compiled(rank):
    """A wrapper that is compiled from outside is found; compiling takes long."""
    _, _, xs, ys = rows(SPLITS["uneven"])
    model = torch.compile(wrapped(), backend="eager")
    return dict(compiled=train(model, xs[rank], ys[rank], ubn_forward))


def second_derivative(layer, x, y):
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(interleaved(layer, x, y)), x, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), x)[0]


def everything_else(rank):
    results = {}
    for split_name, split in SPLITS.items():
        _, _, xs, ys = rows(split)
        for reading, options in READINGS.items():
            for way in WAYS:
                # Without a weight, by hand is what ubn_forward does.
                other = way is not by_hand or "unlabeled_weight" in options
                if other and (way is not interleaved or options.get("source") != "running"):
                    found = train(wrapped(**options), xs[rank], ys[rank], way)
                    results[split_name, reading, way.__name__] = found
    _, _, xs, ys = rows(SPLITS["uneven"])
    results["gap"] = train(wrapped(keep_graph=True), xs[rank], ys[rank], interleaved, gap=gap)
    _, _, xs, ys = rows(NO_UNLABELED)
    for reading in NO_UNLABELED_READINGS:
        for way in (ubn_forward, interleaved):
            found = train(wrapped(stats_grad=reading), xs[rank], ys[rank], way)
            results["no unlabeled rows", reading, way.__name__] = found
    _, _, xs, ys = rows(SPLITS["uneven"])
    # A wrapper inside of the model is found.
    results["inside"] = train(nn.Sequential(wrapped()), xs[rank], ys[rank], ubn_forward)

    for interleave in (False, True):
        model = DistributedDataParallel(StepInside(interleave))
        found = train(model, xs[rank], ys[rank], lambda model, x, y: model(x, y))
        results["step inside", interleave] = found

    # One rank has little data and the other has not, yet both must go the same way.
    many = small_nets.rows(3000 if rank else 3, rank)
    results["lopsided"] = train(wrapped(), xs[rank], many, ubn_forward)[0], many

    sync = convert_ubn(nn.SyncBatchNorm.convert_sync_batchnorm(network()))
    output = interleaved(sync, xs[rank], ys[rank])
    results["sync"] = output.detach(), {name: b.clone() for name, b in sync.named_buffers()}

    # Its own ranks, whatever those of the wrapper; torch itself refuses SyncBatchNorm on a CPU.
    groups = [dist.new_group([other]) for other in range(WORLD)]
    norm = nn.SyncBatchNorm(3, process_group=groups[rank])
    lone = nn.Sequential(nn.Linear(3, 3), norm).double()
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda self, module: None
    model = DistributedDataParallel(convert_ubn(lone))
    flat, others = xs[rank].flatten(1)[:, :3], ys[rank].flatten(1)[:, :3]
    ubn_forward(model, flat, others)
    union = lone[0](torch.cat([flat, others])).mean(0)
    results["own ranks"] = lone[1].last_step[0].union.mean.detach(), union.detach()

    # A plain call, with the averages of sigma.
    sync = convert_ubn(nn.SyncBatchNorm(3).double(), running_stat="std")
    results["sync, plainly"] = sync(flat).detach(), {n: b.clone() for n, b in sync.named_buffers()}

    for reading in ("labeled", "all"):  # whose statistics carry gradient
        sync = convert_ubn(nn.SyncBatchNorm(3).double(), stats_grad=reading)
        results["second derivative", reading] = second_derivative(sync, flat, others)

    # Three batches on one rank and one on the other, and a layer that no batch reaches.
    first = DistributedDataParallel(convert_ubn(network()[:2].append(nn.BatchNorm2d(5))))
    refresh_statistics(
        first, ys[rank].split(2) if rank == 0 else [ys[rank]], call=lambda y: first.module[:2](y)
    )
    results["refresh"] = {name: b.clone() for name, b in first.module.named_buffers()}

    return results


def run(folder, work):
    """Let the two processes work, and return what each found."""
    command = [sys.executable, __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, str(rank), str(folder), work.__name__], env=environment)
        for rank in range(WORLD)
    ]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0] * WORLD
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


if __name__ == "__main__":
    rank, folder, work = int(sys.argv[1]), Path(sys.argv[2]), globals()[sys.argv[3]]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
