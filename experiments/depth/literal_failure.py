"""Why the literal reading fails in deep nets: what its steps promise, and what is left of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import model_validator
from torch import Tensor, nn

from experiments.common.records import Record, Result, read_record, recorded
from experiments.common.style import INK, look
from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData
from experiments.depth.engine import Engine, alone
from experiments.depth.evaluate import accuracy_of_parts, refreshed, to_input
from experiments.depth.step_effects import Belief, StepEffects, step_effects
from experiments.depth.train import loss_of_step, make_loader, make_net, make_optimizer
from ubnlib.kitti.loader import StepData
from ubnlib.losses import multiscale_depth_loss

LOSSES = ("loss_before", "promised", "believed", "happened")


class CancellationConfig(DepthConfig):
    """A depth run of which every (steps // evaluations)-th step is measured, from the first on."""

    version: ClassVar[int] = 1
    experiment: Literal["cancellation"] = "cancellation"
    evaluations: int = 12

    @model_validator(mode="after")
    def _can_be_measured(self) -> "CancellationConfig":
        if self.engine.accumulate > 1 or self.engine.precision != "fp32":
            raise ValueError(
                f"The engine has accumulate={self.engine.accumulate} and "
                f"precision={self.engine.precision!r}: steps are measured whole and in fp32."
            )
        return self

    @property
    def belief(self) -> Belief:
        """What the gradients of this reading believe in."""
        if self.norm.kind == "bn" or self.norm.repair == "both":
            return "corrected"
        return self.norm.stats_grad if self.norm.repair == "nothing" else self.norm.repair


@recorded
def run_cancellation(config: CancellationConfig, data: DepthData) -> Result:
    """Train as `train.run_depth` does, and measure steps on the way.

    A step is measured just before it is made, with copies of the net and the optimizer, so that
    training goes as if nobody looked; on the images as they are, which training may mirror.

    Returns:
        Curves `step`, the number of steps before the one measured; accuracies (delta < 1.25)
        `labeled`, `unlabeled` and `test` there; `loss_before`, `promised`, `believed` and
        `happened` of `StepEffects`, and its layers' columns as `COLUMN/LAYER`; and `loss` of all
        steps, thinned out. The metrics are the accuracies at the end, also as
        `refreshed_...` with statistics measured anew on training images: where the two differ, the
        moving averages have not kept up with the net.
    """
    ranks = alone()
    loader = make_loader(config, data, ranks)
    steps = config.total_steps(len(data.train))
    net = make_net(config, ranks)
    every = max(1, steps // max(1, config.evaluations))

    def loss(model: nn.Module, batch: StepData) -> Tensor:
        if engine.step % every == 0:
            here = {"step": engine.step, **accuracy_of_parts(net, config.labels, data)}
            effects = _effects(config, net, engine.optimizer, batch)
            for name, value in (here | _flat(effects)).items():
                engine.curves.setdefault(name, []).append(value)
        return loss_of_step(model, batch, config, ranks, loader.step - 1, loader.steps)

    optimizer = make_optimizer(net, config)
    engine = Engine(net, optimizer, loss, loader, config.engine, ranks, config.seed, config.rate)
    engine.train()
    engine.curves["loss"] = engine.curves["loss"][:: max(1, steps // 100)]
    metrics = {
        f"{kind}{name}_delta1": value
        for kind, trained in (("", net), ("refreshed_", refreshed(net, data)))
        for name, value in accuracy_of_parts(trained, config.labels, data).items()
    }
    return Result.of_one_seed(metrics, engine.curves)


def _effects(
    config: CancellationConfig, net: nn.Module, optimizer: Any, batch: StepData
) -> StepEffects:
    """Measure the step that a batch is about to make."""
    ranks = alone()
    labeled = batch.labeled.to(ranks.device)
    target = labeled.depth()
    others = None if batch.unlabeled is None else batch.unlabeled.to(ranks.device).images
    return step_effects(
        net,
        optimizer,
        lambda maps: multiscale_depth_loss(maps, target, mode=config.downscale, norm=config.loss),
        to_input(labeled.images),
        None if others is None else to_input(others),
        config.belief,
    )


def _flat(effects: StepEffects) -> dict[str, float]:
    """Return an effect's numbers by the names of their curves."""
    losses = (effects.loss, effects.promised, effects.believed, effects.happened)
    columns = effects.layers.to_dict()
    layers = {f"{c}/{layer}": value for c, by in columns.items() for layer, value in by.items()}
    return dict(zip(LOSSES, losses, strict=True)) | layers


def read_failure(folder: Path | str, domain: str) -> dict[str, Record]:
    """Return a folder's measured runs on a domain by the names of their arms."""
    records = map(read_record, sorted(Path(folder).glob("cancellation-*.json")))
    return {r.config["arm"]: r for r in records if r.config["domain"] == domain}


def effects_of(records: Mapping[str, Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what steps did by records of `run_cancellation`, of one seed each, by their reading.

    Returns:
        Of losses and accuracies, one row a step: `reading`, `step`, `labeled`, `unlabeled`, `test`,
        `loss_before`, `promised`, `believed`, `happened`. Of layers, one row each: `reading`,
        `step`, `layer`, and the columns of `StepEffects.layers`.
    """
    losses, layers = [], []
    for reading, record in records.items():
        curves = {name: values[0] for name, values in record.curves.items() if name != "loss"}
        table = pd.DataFrame(curves, dtype=float).assign(reading=reading)
        per_layer = [name for name in curves if "/" in name]
        losses.append(table.drop(columns=per_layer))
        long = table.melt(["reading", "step"], per_layer)
        long[["measure", "layer"]] = long.pop("variable").str.split("/", expand=True)
        order = dict(index=["reading", "step", "layer"], columns="measure", values="value")
        layers.append(long.pivot_table(**order, sort=False).reset_index())
    return pd.concat(losses, ignore_index=True), pd.concat(layers, ignore_index=True)


# --- the figure -----------------------------------------------------------------------------------

LINES = {  # what is drawn of each step's loss
    "promised": "what the gradient promises",
    "happened": "what happens",
}


def draw(losses: pd.DataFrame, layers: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Draw, for each reading, its steps' effect on the loss and what of it each layer loses.

    The tables are those of `effects_of`; `titles` says what to write above which readings.
    """
    size = (1.55 * len(titles) + 1.5, 5.2)
    figure, grid = plt.subplots(2, len(titles), figsize=size, squeeze=False, sharex="col",
                                height_ratios=(1, 1.6))  # fmt: skip
    chosen = losses[losses["reading"].isin(titles)]
    for (reading, title), (above, below) in zip(titles.items(), grid.T, strict=True):
        if above is not grid[0, 0]:
            above.sharey(grid[0, 0])
        _changes(above, chosen[chosen["reading"] == reading])
        above.set_title(title.replace(", ", "\n"))
        table = layers[layers["reading"] == reading]
        image = _shares_by_step(below, table, first=below is grid[1, 0])
        below.set_xlabel("training step")
    grid[0, 0].set_ylabel("change of the loss\nby one step")
    for axes in grid[0, 1:]:
        axes.tick_params(labelleft=False)
    figure.colorbar(image, ax=grid[1], label="share of the believed change\nthat is cancelled")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.set_label(
        f"Single training steps of {'; '.join(titles.values())} (columns). Above, the change of "
        "the loss that the gradient promises and the one that happens, down is better. "
        "Below, layer by layer, the share of the believed change that the next collection of "
        "statistics cancels, dark where all of it is."
    )
    return figure


def _changes(axes: Axes, table: pd.DataFrame) -> None:
    """Draw how single steps change the loss; down is better."""
    for name, label in LINES.items():
        axes.plot(table["step"], table[name], label=label, **look(name).line)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.yaxis.set_major_formatter("{x:g}")


def _shares_by_step(axes: Axes, table: pd.DataFrame, *, first: bool) -> plt.cm.ScalarMappable:
    """Draw the cancelled share of each layer, from the input down to the output, at each step."""
    shares = table.pivot_table(index="layer", columns="step", values="cancelled", sort=False)
    steps = shares.columns.to_numpy(dtype=float)
    width = steps[1] - steps[0] if len(steps) > 1 else 1.0
    edges = np.append(steps, steps[-1] + width) - width / 2
    image = axes.pcolormesh(edges, range(len(shares) + 1), shares, vmin=0, vmax=1, cmap="magma_r")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(shares)) + 0.5, shares.index if first else [""] * len(shares))
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return image
