"""Networks drawn by hypothesis, and a UBN step through them written from the equations."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from oracle import OracleNorm
from ubnlib import convert_ubn

CHANNELS = 4
LAYERS = {
    "vector": (lambda i: nn.Linear(i, CHANNELS), nn.BatchNorm1d),
    "sequence": (lambda i: nn.Conv1d(i, CHANNELS, 3, padding=1), nn.BatchNorm1d),
    "image": (lambda i: nn.Conv2d(i, CHANNELS, 3, padding=1), nn.BatchNorm2d),
}


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Recomputed(nn.Module):
    """Activation checkpointing; none where `reentrant` is None."""

    def __init__(self, body, reentrant, **options):
        super().__init__()
        self.body, self.reentrant, self.options = body, reentrant, options

    def forward(self, x):
        if self.reentrant is None:
            return self.body(x)
        return checkpoint(self.body, x, use_reentrant=self.reentrant, **self.options)


class Stem(nn.Module):
    """Takes x, (x, v) or {"x": x, "more": [v]}."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.beside = layer, nn.Linear(3, CHANNELS)

    def forward(self, batch):
        if isinstance(batch, torch.Tensor):
            return self.layer(batch)
        x, v = batch if isinstance(batch, tuple) else (batch["x"], batch["more"][0])
        h = self.layer(x)
        return h + self.beside(v).view(len(v), CHANNELS, *[1] * (h.dim() - 2))


class Head(nn.Module):
    def __init__(self, gives):
        super().__init__()
        self.gives, self.linear = gives, nn.Linear(CHANNELS, 3)

    def forward(self, h):
        logits = self.linear(h.flatten(2).mean(2) if h.dim() > 2 else h)
        outputs = {"tensor": logits, "tuple": (logits, h), "dict": {"logits": logits, "h": [h]}}
        return outputs[self.gives]


class Plan(NamedTuple):
    kind: str
    blocks: list[tuple[bool, bool, bool]]  # residual, with the shared layer, checkpointed
    takes: str
    gives: str
    rows: tuple[int, int]
    sizes: tuple[int, int]
    seed: int

    @property
    def one_size(self):
        return self.kind == "vector" or self.sizes[0] == self.sizes[1]

    def batches(self):
        """A labeled and an unlabeled batch; the leaf of the former has a gradient."""
        torch.manual_seed(self.seed + 1)
        trees = []
        for n, size in zip(self.rows, self.sizes, strict=True):
            position = {"vector": (), "sequence": (size,), "image": (size, size + 1)}[self.kind]
            x = 1 + 2 * torch.randn(n, 2, *position, dtype=torch.float64)
            x, v = (x - 2 * len(trees)).requires_grad_(not trees), torch.randn(n, 3).double()
            trees.append({"tensor": x, "tuple": (x, v), "dict": {"x": x, "more": [v]}}[self.takes])
        return trees

    def build(self, reentrant=None, p=0.0):
        torch.manual_seed(self.seed)
        layer, norm = LAYERS[self.kind]
        shared, modules = norm(CHANNELS), [Stem(layer(2))]
        for residual, again, recomputed in self.blocks:
            bn = shared if again else norm(CHANNELS, affine=len(modules) % 2 == 0)
            body = nn.Sequential(bn, nn.Tanh(), nn.Dropout(p), layer(CHANNELS), norm(CHANNELS))
            body = Residual(body) if residual else body
            modules.append(Recomputed(body, reentrant if recomputed else None))
        net = nn.Sequential(*modules, Head(self.gives)).double()
        for parameter in net.parameters():
            nn.init.normal_(parameter, mean=0.3, std=0.8)
        return net


PLANS = st.builds(
    Plan,
    st.sampled_from(list(LAYERS)),
    st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=4),
    st.sampled_from(["tensor", "tuple", "dict"]),
    st.sampled_from(["tensor", "tuple", "dict"]),
    st.tuples(st.integers(3, 5), st.integers(1, 6)),
    st.tuples(st.integers(2, 5), st.integers(2, 5)) | st.integers(2, 5).map(lambda s: (s, s)),
    st.integers(0, 2**31),
)


def leaves(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [leaf for part in parts for leaf in leaves(part)]


def bounded_loss(output):
    """No symmetric function of its values, of no great size."""
    return sum(
        (v.sin() * torch.linspace(-1, 1, v.numel()).view_as(v)).sum() for v in leaves(output)
    )


def norms_of(net):
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def found(net, batch, output):
    """Values, running averages, gradients of parameters and of the labeled rows."""
    bounded_loss(output).backward()
    averages = [(m.running_mean, m.running_var) for m in norms_of(net)]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    return leaves(output), averages, [*grads, leaves(batch)[0].grad]


def step(plan, forward, options, reentrant=None, p=0.0):
    """What was found, and how many rows each pass had."""
    net, (x, y) = convert_ubn(plan.build(reentrant, p), **options), plan.batches()
    seen = []
    net[-1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    torch.manual_seed(plan.seed + 2)
    output = forward(net, x, y)
    assert seen[-1].requires_grad and len(seen[-1]) == plan.rows[0]
    return found(net, x, output), [len(h) for h in seen]


def joint_step(plan):
    """One pass of nn.BatchNorm over both batches, for rows of one size."""
    net, (x, y), n = plan.build(), plan.batches(), plan.rows[0]
    if isinstance(x, dict):
        both = {"x": torch.cat([x["x"], y["x"]]), "more": [torch.cat([x["more"][0], y["more"][0]])]}
    else:
        both = tuple(map(torch.cat, zip(x, y, strict=True))) if isinstance(x, tuple) else None
    output = net(torch.cat([x, y]) if both is None else both)
    return found(net, x, [leaf[:n] for leaf in leaves(output)])


def oracle_step(plan, stats_grad, unlabeled_weight):
    """Both batches layer by layer, whatever their sizes."""
    net, (x, y) = plan.build(), plan.batches()
    options = stats_grad, "batch", "var", 0.1, unlabeled_weight
    norms = {bn: OracleNorm(bn, *options) for bn in norms_of(net)}
    output, *_ = _walk(net, (x, x, y), norms)
    for bn, norm in norms.items():
        bn.running_mean, bn.running_var = norm.running
    return found(net, x, output)


def _walk(module, streams, norms):
    if isinstance(module, nn.Sequential):
        for part in module:
            streams = _walk(part, streams, norms)
        return streams
    if isinstance(module, Residual):
        pairs = zip(streams, _walk(module.body, streams, norms), strict=True)
        return tuple(a + b for a, b in pairs)
    if isinstance(module, Recomputed):
        return _walk(module.body, streams, norms)
    return norms[module](*streams) if module in norms else tuple(module(s) for s in streams)
