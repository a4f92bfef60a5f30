"""From predictions to metrics: resizing against closed forms, mixed sizes against a plain loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from experiments.depth.evaluate import (
    distances,
    evaluate_depth,
    layer_averages,
    layer_statistics,
    norm_layers,
    per_image_metrics,
    resize_depth,
)
from ubnlib import DispNet
from ubnlib.functional import Statistics
from ubnlib.kitti import FrameKey

NAMES = ["abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3"]
SIZES = [(37, 124), (37, 122), (38, 124), (36, 123), (40, 120)]


def resize_by_loops(depth, height, width):
    """Interpolate the disparity of one map at each pixel's center, borders repeated."""
    disparity = 1.0 / depth.astype(np.float64)
    h, w = disparity.shape
    out = np.empty((height, width))
    for row, column in np.ndindex(out.shape):
        v = min(max((row + 0.5) * h / height - 0.5, 0.0), h - 1.0)
        u = min(max((column + 0.5) * w / width - 0.5, 0.0), w - 1.0)
        top, left = min(int(v), max(h - 2, 0)), min(int(u), max(w - 2, 0))
        bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
        a, b = v - top, u - left
        upper = (1 - b) * disparity[top, left] + b * disparity[top, right]
        lower = (1 - b) * disparity[bottom, left] + b * disparity[bottom, right]
        out[row, column] = 1.0 / ((1 - a) * upper + a * lower)
    return out


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 9)),
    st.tuples(st.integers(0, 12), st.integers(0, 12)),
    st.integers(0, 2**32 - 1),
)
def test_resizing_agrees_with_the_loops(small, more, seed):
    size = small[0] + more[0], small[1] + more[1]
    depth = np.random.default_rng(seed).uniform(2.4, 80, (2, *small))
    ours = resize_depth(torch.from_numpy(depth), size).numpy()
    for mine, d in zip(ours, depth, strict=True):
        np.testing.assert_allclose(mine, resize_by_loops(d, *size), rtol=1e-12)


def test_maps_of_the_size_already_come_back_unchanged_and_halves_as_floats():
    depth = torch.rand(2, 5, 7) * 77 + 3
    assert torch.equal(resize_depth(depth, (5, 7)), depth)
    assert resize_depth(depth.half(), (10, 14)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"depth has shape \(2, 1, 5, 7\), expected \[N, h, w\]"):
        resize_depth(depth[:, None], (10, 14))


def make_frames(count, seed=0, small=(12, 40)):
    """Return predictions and targets by key, of mixed sizes and densities, float32."""
    generator = np.random.default_rng(seed)
    predictions, targets = {}, {}
    for number in generator.permutation(count):
        key = FrameKey("2000_01_01", "0001", 2, int(number))
        target = generator.uniform(1, 90, SIZES[generator.integers(len(SIZES))])
        target[generator.uniform(size=target.shape) > generator.uniform(0.02, 0.4)] = 0
        targets[key] = target.astype(np.float32)
        predictions[key] = torch.from_numpy(generator.uniform(2, 80, small)).float()
    return predictions, targets


def loop(predictions, targets, **options):
    """Evaluate one frame after the other: [frames, 7]."""
    rows = []
    for key, prediction in predictions.items():
        size = targets[key].shape
        resized = resize_by_loops(prediction.numpy(), *size)
        metrics = per_image_metrics(resized, targets[key], **options)
        rows.append([metrics[name].item() for name in NAMES])
    return np.array(rows)


def table(evaluation):
    assert list(evaluation.per_frame) == NAMES
    return np.stack([evaluation.per_frame[name] for name in NAMES], axis=1)


@pytest.mark.parametrize(
    ("options", "batch_size"),
    [({}, 1), (dict(crop="garg", cap=50.0), 4), (dict(crop="eigen", median_scaling=True), 100)],
)
def test_mixed_sizes_agree_with_a_loop_over_frames(options, batch_size):
    predictions, targets = make_frames(23)
    expected = loop(predictions, targets, **options)
    doubles = ((key, depth.double()) for key, depth in predictions.items())  # a plain iterator
    result = evaluate_depth(doubles, targets.get, batch_size=batch_size, **options)
    assert result.keys == tuple(predictions) and result.left_out == ()
    np.testing.assert_allclose(table(result), expected, rtol=1e-9)
    means = dict(zip(NAMES, expected.mean(axis=0), strict=True))
    assert result.means == pytest.approx(means, rel=1e-9)


def test_frames_without_a_pixel_are_left_out_and_named():
    predictions, targets = make_frames(8, seed=2)
    empty = [list(predictions)[3], list(predictions)[6]]
    for key in empty:
        targets[key][:] = 0
    result = evaluate_depth(predictions.items(), targets.get)
    assert result.left_out == tuple(empty) and len(result.keys) == 8
    assert np.isnan(table(result)).all(axis=1).tolist() == [k in empty for k in result.keys]
    rest = {key: depth for key, depth in predictions.items() if key not in empty}
    assert result.means == pytest.approx(evaluate_depth(rest.items(), targets.get).means)


def test_wrong_input_is_refused_in_one_sentence():
    key, size = "a", (4, 6)
    ones = torch.ones(size)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 6\) and a target of shape \(4, 6\)"):
        evaluate_depth([(key, ones[None])], {key: ones}.get)
    with pytest.raises(ValueError, match="Frame a came twice"):
        evaluate_depth([(key, ones), (key, ones)], {key: ones}.get)
    with pytest.raises(ValueError, match="None of the 0 frames"):
        evaluate_depth([], {}.get)
    with pytest.raises(ValueError, match=r"None of the 1 frames .* <= 80.0 to evaluate"):
        evaluate_depth([(key, ones)], {key: 90 * ones}.get)
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluate_depth([(key, ones)], {key: ones}.get, batch_size=0)
    with pytest.raises(KeyError):  # what the target raises is not hidden
        evaluate_depth([(key, ones)], {}.__getitem__)


# Statistics of layers


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3)
    return nn.Sequential(*layers).double()


def test_statistics_of_layers_are_those_of_their_inputs_in_evaluation():
    with torch.device("meta"):
        assert list(norm_layers(DispNet()))[:3] == ["cnv1", "cnv1b", "cnv2"]
    model, x = network(), torch.randn(5, 2, 7, 6, dtype=torch.float64)
    model(x)  # so that the averages are no longer those of the start
    averages = [buffer.clone() for buffer in model.buffers()]
    found = layer_statistics(model, x)
    assert model.training and all(map(torch.equal, model.buffers(), averages))
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.eval()
    for name, inputs in (("1", model[0](x)), ("4", model[:4](x))):
        expected = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3), correction=0)
        torch.testing.assert_close(tuple(found[name].moments), expected)
    kept = layer_averages(model)
    assert torch.equal(kept["4"].mean, model[4].running_mean)
    model.train()(x)
    assert not torch.equal(kept["4"].var, model[4].running_var), "averages are a copy"


def test_distances_are_in_units_of_the_second_variance():
    def of(mean, var):
        return {"layer": Statistics(torch.tensor(mean), torch.tensor(var), 8)}

    a, b = of([1.0, 5.0], [2.0, 2.0]), of([3.0, 5.0], [4.0, 2.0])
    # (1 - 3)^2 / 4 + log(2 / 4)^2 / 4 in the first channel, nothing in the second
    expected = (1 + np.log(0.5) ** 2 / 4) / 2
    assert distances(a, b)["layer"] == pytest.approx(expected, rel=1e-4)
    assert distances(b, a)["layer"] == pytest.approx((2 + np.log(0.5) ** 2 / 4) / 2, rel=1e-4)
    assert distances(a, a) == {"layer": 0.0}
