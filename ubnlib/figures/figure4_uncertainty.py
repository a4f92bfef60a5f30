"""Figure 4: how much predictions vary when the unlabeled batch behind the statistics does."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ubnlib.figures.spiral_plane import plane, show_boundary, show_map, show_points
from ubnlib.spiral import SpiralData, SpiralNet
from ubnlib.spiral_analysis import resampled_probabilities


def draw(net: SpiralNet, data: SpiralData, *, samples: int, batch: int, seed: int) -> Figure:
    """Draw the standard deviation over the plane, with the mean prediction's boundary."""
    probabilities = resampled_probabilities(
        net, plane(), data.unlabeled, samples=samples, batch=batch, seed=seed
    )
    figure, axes = plt.subplots(figsize=(5, 4.3))
    image = show_map(axes, probabilities.std(0), cmap="viridis", vmin=0)
    show_boundary(axes, probabilities.mean(0), colors="w", linewidths=1)
    show_points(axes, data, unlabeled=False)
    figure.colorbar(image, ax=axes, label="standard deviation of P(class 1)")
    return figure
