"""Figure 2: decision boundaries on the spiral, batch normalization beside UBN."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ubnlib.figures.spiral_plane import plane, show_boundary, show_map, show_points
from ubnlib.figures.style import CLASS_MAP
from ubnlib.spiral_analysis import class_probability
from ubnlib.spiral_experiment import SpiralRun


def draw(runs: dict[str, SpiralRun]) -> Figure:
    """Draw the class probability of each run over the plane, with boundary and points.

    Args:
        runs: One trained net for each title.
    """
    figure, row = plt.subplots(1, len(runs), figsize=(4 * len(runs), 4.2), squeeze=False)
    for axes, (title, run) in zip(row[0], runs.items(), strict=True):
        probability = class_probability(run.net, plane())
        show_map(axes, probability, cmap=CLASS_MAP, vmin=0, vmax=1)
        show_boundary(axes, probability, colors="k", linewidths=1.2)
        show_points(axes, run.data)
        axes.set_title(title)
    return figure
