"""The same budget for every peer: three learning rates, then its own two other choices."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.ablation.config import AblationConfig, Domain
from experiments.ablation.plan import BASE, RATES, Peer, Trial, configured, peers
from experiments.common.records import Record

Obtain = Callable[[Sequence[AblationConfig]], Sequence[Record]]


def tune(domain: Domain, obtain: Obtain, *, data: str = "") -> dict[str, Trial]:
    """Return the best of each peer's five trials: its method, and what differs in the setting.

    Args:
        domain: Where.
        obtain: Returns the records of configurations, in their order.
        data: Fingerprint of the frames, for depth.
    """
    found = peers(domain)
    rates = [{"learning_rate": rate * BASE[domain].learning_rate} for rate in RATES]
    first = {
        name: [(method, {**change, **rate}) for rate in rates]
        for name, peer in found.items()
        for method, change in peer.trials[:1]
    }
    scores = _scores(domain, found, first, obtain, data)
    best = {name: first[name][int(np.argmax(values))] for name, values in scores.items()}
    second = {
        name: [
            best[name],
            *(
                (method, {**change, "learning_rate": best[name][1]["learning_rate"]})
                for method, change in peer.trials[1:]
            ),
        ]
        for name, peer in found.items()
    }
    scores = _scores(domain, found, second, obtain, data)
    return {name: second[name][int(np.argmax(values))] for name, values in scores.items()}


def _scores(
    domain: Domain,
    found: Mapping[str, Peer],
    trials: Mapping[str, Sequence[Trial]],
    obtain: Obtain,
    data: str,
) -> dict[str, list[float]]:
    """Return the mean of each peer's metric in each of its trials."""
    configs = {
        name: [configured(domain, *trial, stage="tuning", data=data) for trial in some]
        for name, some in trials.items()
    }
    flat = [config for some in configs.values() for config in some]
    records = {record.key: record for record in obtain(flat)}
    return {
        name: [float(np.mean(records[c.key].metrics[found[name].metric])) for c in some]
        for name, some in configs.items()
    }
