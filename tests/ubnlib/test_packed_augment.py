"""Augmentation: mirrored points are mirrored maps, and light leaves depth and range alone."""

import numpy as np
import pytest
import torch

from small_kitti import DATE, scan_path, write_textured
from ubnlib.kitti import (  # fmt: skip
    Calibration,
    KittiRaw,
    PackedBatch,
    prepare,
    project_velodyne,
    read_velodyne,
    scale_projection,
)
from ubnlib.kitti.packed import Augmentation
from ubnlib.kitti.packed.augment import flip
from ubnlib.kitti.packed.codes import encode_depth

SIZE = (12, 36)
NATIVE = (20, 60)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_textured(tmp_path_factory.mktemp("augment"), frames=range(6))


@pytest.fixture(scope="module")
def frames(root):
    raw = KittiRaw(root, cameras=(2,), size=SIZE)
    return prepare(raw, root / "packed", workers=1, progress=False)


@pytest.fixture
def batch(frames):
    return frames.batch(range(6))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_projecting_mirrored_points_is_flipping_the_packed_map(root, batch):
    """The camera looks straight ahead from the scanner: y -> -y mirrors its image exactly."""
    projection = scale_projection(Calibration.load(root / DATE).projection(2), NATIVE, SIZE)
    flipped = flip(batch, torch.ones(6, dtype=torch.bool)).depth().numpy()
    for frame in range(6):
        points = read_velodyne(scan_path(root, frame))
        points[:, 1] *= -1
        mirrored = project_velodyne(points, projection, SIZE)
        expected = np.round(mirrored.astype(np.float64) * 204.8) / 204.8 * (mirrored <= 80)
        assert (mirrored > 0).mean() > 0.3
        np.testing.assert_array_equal(flipped[frame], expected.astype(np.float32))


@pytest.mark.parametrize("chosen", [[0] * 6, [1] * 6, [1, 0, 0, 1, 1, 0]])
def test_only_the_chosen_frames_are_mirrored(batch, chosen):
    before = PackedBatch(*(tensor.clone() for tensor in batch))
    ours = flip(batch, torch.tensor(chosen, dtype=torch.bool))
    for index, moved in enumerate(chosen):
        image, depth = batch.images[index], batch.depth()[index]
        assert torch.equal(ours.images[index], image.flip(-1) if moved else image)
        assert torch.equal(ours.depth()[index], depth.flip(-1) if moved else depth)
        assert not torch.equal(image, image.flip(-1)) and not torch.equal(depth, depth.flip(-1))
    assert all(torch.equal(*pair) for pair in zip(batch, before, strict=True))
    assert ours.images.is_contiguous(memory_format=torch.channels_last)


def test_flipped_twice_is_the_batch_itself(batch):
    chosen = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool)
    twice = flip(flip(batch, chosen), chosen)
    assert all(torch.equal(*pair) for pair in zip(batch, twice, strict=True))


def test_frames_without_depth_are_mirrored_too(frames, batch):
    unlabeled = frames.batch(range(6), depth=False)
    chosen = torch.ones(6, dtype=torch.bool)
    ours = flip(unlabeled, chosen)
    assert torch.equal(ours.images, flip(batch, chosen).images) and len(ours.codes) == 0


def test_a_map_of_one_row_across_the_sign_bit():
    """With 832 columns, row 157 holds codes of both signs."""
    depth = np.zeros((256, 832), np.float32)
    depth[157] = np.linspace(1, 70, 832)
    codes = torch.from_numpy(encode_depth(depth).view(np.int32))
    assert (codes < 0).any() and (codes > 0).any()
    images = torch.zeros(1, 3, 256, 832, dtype=torch.uint8)
    batch = PackedBatch(images, codes, torch.tensor([len(codes)]))
    ours = flip(batch, torch.tensor([True])).depth()[0]
    assert torch.equal(ours, batch.depth()[0].flip(-1)) and (ours[157] > 0).all()


def test_flips_are_drawn_from_the_generator(batch):
    half = Augmentation(flip=0.5)
    outcomes = [half.flipped(batch, generator(seed)) for seed in (0, 0, 1, 2, 3)]
    assert all(torch.equal(*pair) for pair in zip(*outcomes[:2], strict=True))
    assert any(not torch.equal(outcomes[0].images, other.images) for other in outcomes[2:])
    never, always = Augmentation(flip=0.0), Augmentation(flip=1.0)
    assert torch.equal(never.flipped(batch, generator()).images, batch.images)
    assert torch.equal(always.flipped(batch, generator()).images, batch.images.flip(-1))
    assert torch.equal(always.flipped(batch, generator()).depth(), batch.depth().flip(-1))


def test_half_of_the_frames_are_mirrored():
    images = torch.arange(2, dtype=torch.uint8).view(1, 1, 1, 2).expand(4000, 3, 1, 2)
    empty = torch.empty(0, dtype=torch.int32), torch.zeros(4000, dtype=torch.int64)
    for share in (0.5, 0.2):
        ours = Augmentation(flip=share).flipped(PackedBatch(images, *empty), generator())
        mirrored = (ours.images[:, 0, 0, 0] == 1).double().mean().item()
        assert abs(mirrored - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_light_keeps_the_range_and_the_frames_not_chosen(batch):
    images = (batch.images / 255).repeat(5, 1, 1, 1)
    before = images.clone()
    ours = Augmentation(light=0.5).relit(images, generator(3))
    assert torch.equal(images, before)
    assert ours.shape == images.shape and ours.dtype == images.dtype
    assert ours.min() >= 0 and ours.max() <= 1 and ours.isfinite().all()
    same = [torch.equal(one, two) for one, two in zip(ours, images, strict=True)]
    assert 5 < sum(same) < 25
    assert torch.equal(Augmentation(light=0.0).relit(images, generator()), images)
    again = Augmentation(light=0.5).relit(images, generator(3))
    assert torch.equal(ours, again)
    assert not torch.equal(Augmentation(light=0.5).relit(images, generator(4)), ours)


def test_black_and_white_images_stay_finite():
    extremes = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    for seed in range(20):
        ours = Augmentation(light=1.0).relit(extremes, generator(seed))
        assert (ours[0] == 0).all() and (ours[1] > 0.3).all() and (ours <= 1).all()


def test_light_is_gamma_times_brightness_times_color():
    """With one kind of change at a time, it can be read off the pixels."""
    none = dict(light=1.0, gamma=(1.0, 1.0), brightness=(1.0, 1.0), color=(1.0, 1.0))
    images = torch.full((500, 3, 2, 2), 0.4)
    assert torch.equal(Augmentation(**none).relit(images, generator()), images)

    def values(**change):
        ours = Augmentation(**none | change).relit(images, generator())
        assert (ours == ours[:, :, :1, :1]).all()  # alike in all of an image
        return ours[:, :, 0, 0].double()

    gamma = values(gamma=(0.8, 1.2)).log() / np.log(0.4)
    brightness = values(brightness=(0.5, 2.0)) / 0.4
    color = values(color=(0.8, 1.2)) / 0.4
    for drawn, low, high in ((gamma, 0.8, 1.2), (brightness, 0.5, 2.0), (color, 0.8, 1.2)):
        assert low - 1e-5 <= drawn.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < drawn.max() <= high + 1e-5
    for of_image in (gamma, brightness):
        assert (of_image == of_image[:, :1]).all()
    assert (color[:, 0] != color[:, 1]).any() and (color[:, 1] != color[:, 2]).any()


def test_a_seed_means_the_same_for_every_type(batch):
    images = batch.images / 255
    single = Augmentation().relit(images, generator())
    double = Augmentation().relit(images.double(), generator())
    assert torch.allclose(single.double(), double, atol=1e-6)
