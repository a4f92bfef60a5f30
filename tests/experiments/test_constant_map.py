"""The depth map that looks at no image, against brute force."""

import math

import pytest
import torch

from experiments.depth.constant_map import NEAREST, STEP, best_map, depth_counts


def test_the_map_is_the_depth_that_most_labels_are_close_to():
    generator = torch.Generator().manual_seed(0)
    maps = 2 + 20 * torch.rand(9, 4, 6, generator=generator)
    maps[torch.rand(maps.shape, generator=generator) < 0.3] = 0
    for rows, columns in ((1, 1), (3, 5), (1, 99)):
        found = best_map(depth_counts(maps), (rows, columns))
        for i in range(4):
            for j in range(6):
                near = maps[
                    :,
                    max(0, i - rows // 2) : i + rows // 2 + 1,
                    max(0, j - columns // 2) : j + columns // 2 + 1,
                ]
                near = near[near > 0]

                def hits(depth, near=near, slack=0.0):
                    ratio = (near / depth).log().abs()
                    return int((ratio < math.log(1.25) + slack).sum())

                # A bin is an eighth of the factor wide: close to it, no depth is better.
                best = max(hits(depth, slack=-STEP) for depth in near)
                assert hits(float(found[i, j]), slack=STEP) >= best


def test_a_pixel_without_a_label_takes_the_usual_depth():
    maps = torch.zeros(3, 2, 3)
    maps[:, 0, 0] = 5.0
    assert best_map(depth_counts(maps), (1, 1)) == pytest.approx(5.0, rel=0.25)


def test_depths_are_counted_by_bin_and_pixel():
    maps = torch.tensor([[[NEAREST * 1.001, 0.0]], [[0.01, 1.0]]])
    counts = depth_counts(maps)
    assert counts.sum() == 3 and counts[0, 0, 0] == 2
    assert counts[int(math.log(1.0 / NEAREST) / STEP), 0, 1] == 1
