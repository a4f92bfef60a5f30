"""Statistics of frames against plain formulas; the tables, figures and script made from them."""

import colorsys
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compare_drives
from compare_drives import (
    BINS,
    EDGES,
    IMAGE_STATISTICS,
    DriveStatistics,
    depth_histograms,
    depth_table,
    draw,
    image_statistics,
    image_table,
    measure_drives,
    pool,
    quantiles,
    spread,
    wasserstein,
)
from experiments.depth.figures import draw_contact_sheet
from synthetic_kitti import make_synthetic_kitti
from ubnlib.kitti import KittiRaw

SIZE = (32, 104)


@pytest.fixture(autouse=True)
def _agg():
    with matplotlib.rc_context():
        matplotlib.use("agg")
        yield
        matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("drives") / "kitti"
    make_synthetic_kitti(
        root, drives=3, frames=4, scale=0.1, azimuth_steps=200, workers=1, progress=False
    )
    return root


@pytest.fixture(scope="module")
def dataset(folder):
    return KittiRaw(folder, cameras=(2,), size=SIZE)


@pytest.fixture(scope="module")
def measured(dataset):
    return measure_drives(dataset, bands=4)


def plain_image_statistics(image):
    """Pixel by pixel, in float64."""
    colors = image.transpose(1, 2, 0) / 255
    gray = colors @ (0.299, 0.587, 0.114)
    saturation = np.mean([colorsys.rgb_to_hsv(*color)[1] for row in colors for color in row])
    across, down = (
        np.mean([abs(b - a) for row in table for a, b in pairwise(row)]) for table in (gray, gray.T)
    )
    level = np.round(255 * gray, 6)
    shares = np.mean(level > 249.5), np.mean(level < 10.5)
    return [gray.mean(), gray.std(), saturation, (down + across) / 2, *shares]


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 12, 255]))
@settings(deadline=None, max_examples=40)
def test_image_statistics_are_those_of_a_plain_loop(seed, height, width, top):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, top, (3, height, width), endpoint=True).astype(np.uint8)
    image[:, 0, 0] = 255
    np.testing.assert_allclose(image_statistics(image), plain_image_statistics(image), atol=2e-6)


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_depth_histograms_count_every_return_once(seed, bands):
    rng = np.random.default_rng(seed)
    depth = np.exp(rng.uniform(np.log(0.5), np.log(200), (12, 20))).astype(np.float32)
    depth[rng.random(depth.shape) < 0.4] = 0
    histograms = depth_histograms(depth, bands)
    assert histograms.shape == (bands, BINS) and histograms.sum() == (depth > 0).sum()
    for band in range(bands):
        rows = [row for row in range(12) if int(row * bands / 12) == band]
        inside = np.log(depth[rows][depth[rows] > 0])
        clipped = np.clip(inside, EDGES[0], EDGES[-1])
        np.testing.assert_array_equal(histograms[band], np.histogram(clipped, EDGES)[0])


def test_quantiles_agree_with_those_of_the_samples():
    depth = np.random.default_rng(0).lognormal(2.5, 0.6, 20000).clip(2.1, 88)
    histogram = np.histogram(np.log(depth), EDGES)[0]
    shares = (0.1, 0.25, 0.5, 0.9)
    width = EDGES[1] - EDGES[0]
    np.testing.assert_allclose(
        np.log(quantiles(histogram, shares)), np.log(np.quantile(depth, shares)), atol=width
    )
    with pytest.raises(ValueError, match="at least one lidar return"):
        quantiles(np.zeros(BINS), 0.5)


def test_there_is_no_distance_to_an_empty_histogram():
    assert np.isnan(wasserstein(np.ones(BINS), np.zeros(BINS)))


def test_measured_drives_are_their_frames(dataset, measured):
    assert list(measured) == dataset.drives
    for name, drive in measured.items():
        mine = [n for n, key in enumerate(dataset.keys) if key.drive_name == name]
        depths = np.array([dataset.depth(n).numpy() for n in mine])
        assert drive.images.shape == (4, len(IMAGE_STATISTICS))
        np.testing.assert_allclose(drive.coverage, (depths > 0).mean(axis=(0, 2)))
        counts = (depths.reshape(4, 4, -1) > 0).sum(axis=(0, 2))
        np.testing.assert_array_equal(drive.histograms.sum(axis=1), counts)
        third = image_statistics(dataset.image(mine[2]).numpy())
        np.testing.assert_array_equal(drive.images[2], third)
    for name, drive in measure_drives(dataset, bands=4, max_frames=2).items():
        np.testing.assert_array_equal(drive.images, measured[name].images[[0, 3]])  # evenly spread


def invented(brightness, deep, frames):
    images = np.zeros((len(brightness), 6))
    images[:, 0] = brightness
    histograms = np.zeros((2, BINS), int)
    histograms[:, deep] = frames
    return DriveStatistics(images, np.array([0.0, deep / 100]), histograms)


def test_long_drives_weigh_no_more_than_short_ones():
    drives = {"a": invented([0.1, 0.3], 20, 1), "b": invented([0.6], 60, 1000)}
    coverage, depth = pool(drives)
    np.testing.assert_allclose(coverage, [0, 0.4])
    assert depth.sum() == pytest.approx(1) and depth[0, 20] == depth[0, 60] == 0.25
    mean, between, within = spread(drives)
    assert mean[0] == pytest.approx(0.4)  # of 0.2 and 0.6
    assert between[0] == pytest.approx(0.4 / np.sqrt(2))
    assert within[0] == pytest.approx(np.sqrt(0.1**2 / 2))
    assert np.isnan(spread({"a": drives["a"]})[1]).all()


def test_tables_measure_the_distance_to_the_first_set():
    step = EDGES[1] - EDGES[0]
    real = {"a": invented([0.2], 20, 1), "b": invented([0.2], 60, 1)}
    ours = {"c": invented([0.5], 20, 1), "d": invented([0.7], 70, 1)}
    table = depth_table({"real": real, "ours": ours})
    distances = ["coverage gap", "W all", "W bands", "nearest"]
    np.testing.assert_allclose(table.loc["real", distances].to_numpy(float), 0, atol=1e-12)
    expected = [0.025, 5 * step, 5 * step, 5 * step]
    np.testing.assert_allclose(table.loc["ours", distances].to_numpy(float), expected)
    images = image_table({"real": real, "ours": ours})
    assert images.loc[("ours", "mean"), "brightness"] == pytest.approx(0.6)


def test_a_band_without_returns_counts_against_a_set():
    real, ours = invented([0.2], 20, 1), invented([0.2], 20, 1)
    real.histograms[0] *= 3
    ours.histograms[0] = 0
    table = depth_table({"real": {"a": real}, "ours": {"b": ours}})
    assert table.loc["ours", "W bands"] == pytest.approx(0.75)  # of all returns, a factor of e


def test_the_figure_shows_every_drive(measured):
    names = list(measured)
    sets = {"real": {names[0]: measured[names[0]]}, "synthetic": measured}
    figure = draw(sets)
    dots = [len(cloud.get_offsets()) for cloud in figure.axes[2].collections]
    assert dots == [3, 1]  # the first set in front
    coverage = figure.axes[0].lines[1].get_xdata()
    np.testing.assert_array_equal(coverage, measured[names[0]].coverage)
    figure.draw_without_rendering()


def test_the_contact_sheet_shows_image_and_lidar(dataset):
    figure = draw_contact_sheet(dataset, {dataset.drives[1]: "dusk"}, columns=2)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:6:2] == [dataset.drives[0], "dusk", dataset.drives[2]]
    index = [n for n, key in enumerate(dataset.keys) if key.drive_name == dataset.drives[0]][2]
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, dataset.image(index).permute(1, 2, 0).numpy())
    dots = figure.axes[1].collections[0]
    depth = dataset.depth(index).numpy()
    np.testing.assert_array_equal(dots.get_array(), depth[depth > 0])
    u, v = dots.get_offsets().T.astype(int)
    assert (depth[v, u] > 0).all()
    with pytest.raises(ValueError, match="Drive nowhere is not in the dataset"):
        draw_contact_sheet(dataset, drives=["nowhere"])


def test_script_prints_the_table_and_keeps_the_figures(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = [folder, folder, "--size", *SIZE, "--out", out, "--bands", 4, "--sheet", 1]
    monkeypatch.setattr(sys, "argv", ["compare_drives.py", *map(str, arguments)])
    assert compare_drives.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("drives: 3") == 2 and "brightness" in printed and "W bands" in printed
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{ending}"
        for name in ("drive_statistics", "contact_sheet")
        for ending in ("png", "pdf", "csv")
    }


def test_script_refuses_no_bands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare_drives.py", "one", "other", "--bands", "0"])
    with pytest.raises(SystemExit):
        compare_drives.main()
    assert "--bands: '0' is not a whole number from 1 on." in capsys.readouterr().err
