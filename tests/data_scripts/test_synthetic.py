"""Synthetic drives: the ray caster against closed forms, sensors against each other, the files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from synthetic_kitti import drives, lidar, make_synthetic_kitti, read_domains
from synthetic_kitti.camera import render
from synthetic_kitti.domain import LIGHTS, SEASONS, STREETS, Domain
from synthetic_kitti.drive import Drive
from synthetic_kitti.lidar import scan
from synthetic_kitti.raycast import GROUND, SKY, cast
from synthetic_kitti.rig import Rig
from synthetic_kitti.solids import Material, Thing, World, block, rounded
from synthetic_kitti.surfaces import surface
from ubnlib.kitti import Calibration, KittiRaw, project_velodyne, read_velodyne

GRAY = (0.5, 0.5, 0.5)
SMALL = {"drives": 2, "frames": 2, "scale": 0.06, "azimuth_steps": 60, "progress": False}


def random_rays(count, seed=0, ahead=0.0):
    """Unit vectors in all directions, or with `ahead` > 0 bundled around the x axis."""
    rays = np.random.default_rng(seed).normal((ahead, 0, 0), size=(count, 3))
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


# --- the ray caster -------------------------------------------------------------------------------


def test_ground_distance_is_height_over_slope():
    rays, origin = random_rays(500), np.array([3.0, -2.0, 1.7])
    hits = cast(origin, rays, World.of([]))
    down = rays[:, 2] < 0
    np.testing.assert_allclose(hits.distance[down], 1.7 / -rays[down, 2], rtol=1e-5)
    assert (hits.part[down] == GROUND).all() and (hits.normal[down] == (0, 0, 1)).all()
    assert np.isinf(hits.distance[~down]).all() and (hits.part[~down] == SKY).all()


def test_sphere_distance_and_normal_in_closed_form():
    center, radius, origin = np.array([9.0, 1.0, 4.0]), 2.5, np.array([0.0, 0.0, 3.0])
    ball = Thing([rounded((0, 0, 4.0), (radius,) * 3, Material.METAL, GRAY)], 9.0, 1.0)
    rays = random_rays(4000)
    along = rays @ (center - origin)
    inside = along**2 - ((center - origin) ** 2).sum() + radius**2
    expected = np.where((inside > 0) & (along > 0), along - np.sqrt(np.maximum(inside, 0)), np.inf)
    clear = np.abs(inside) > 1e-3  # not the rays that graze it, where float32 may differ
    hits = cast(origin, rays, World.of([ball]))
    hit = (hits.part == 1) & clear
    np.testing.assert_array_equal(hit, np.isfinite(expected) & clear)
    assert hit.sum() > 50
    np.testing.assert_allclose(hits.distance[hit], expected[hit], rtol=1e-4)
    points = origin + expected[hit, None] * rays[hit]
    np.testing.assert_allclose(hits.normal[hit], (points - center) / radius, atol=2e-3)


@pytest.mark.parametrize("yaw", [0.0, 0.7, 2.5])
def test_turned_box_agrees_with_the_slab_method(yaw):
    origin, size, middle = np.array([0.0, 0.0, 1.5]), np.array([4.0, 2.0, 1.6]), (8.0, -1.0, 1.3)
    box = Thing([block((0, 0, 1.3), size, Material.BODY, GRAY)], *middle[:2], yaw=yaw)
    rays = random_rays(4000, ahead=3)
    turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    start, step = turn @ (origin - middle), rays @ turn.T
    one, two = (-size / 2 - start) / step, (size / 2 - start) / step
    enter, leave = np.minimum(one, two).max(axis=1), np.maximum(one, two).min(axis=1)
    expected = (enter < leave) & (enter > 0)
    hits = cast(origin, rays, World.of([box]))
    sharp = np.abs(enter - leave) > 1e-3
    np.testing.assert_array_equal((hits.part == 1)[sharp], expected[sharp])
    assert expected.sum() > 50
    both = expected & sharp
    np.testing.assert_allclose(hits.distance[both], enter[both], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(hits.normal[both], axis=1), 1, atol=1e-5)
    assert ((hits.normal[both] * rays[both]).sum(axis=1) < 0).all()


def test_tapered_block_and_cylinder_contain_every_hit_and_no_nearer_point():
    """Brute force: march along each ray in float64 until a point lies inside."""
    roof = block((0, 0, 1.0), (3.0, 2.0, 2.0), Material.ROOF, GRAY, top=(1.0, 0.0))
    post = rounded((0, 3.0, 0.0, 2.5), (0.5, 0.4), Material.METAL, GRAY)
    world, origin = World.of([Thing([roof, post], 6.0, 0.0)]), np.array([0.0, 0.5, 1.2])
    rays = random_rays(800, seed=1, ahead=3)
    t = np.arange(0.5, 12, 0.004)
    x, y, z = np.moveaxis(origin + t[:, None] * rays[:, None], -1, 0)
    in_roof = (np.abs(x - 6) <= 1.5) & (np.abs(y) <= (2 - z) / 2) & (z >= 0) & (z <= 2)
    in_post = (((x - 6) / 0.5) ** 2 + ((y - 3) / 0.4) ** 2 <= 1) & (z >= 0) & (z <= 2.5)
    inside = in_roof | in_post
    expected = np.where(inside.any(axis=1), t[inside.argmax(axis=1)], np.inf)
    hits = cast(origin, rays, world)
    found = np.where(hits.part > 0, hits.distance, np.inf)
    assert np.isfinite(expected).sum() > 100
    agree = np.isclose(found, expected, atol=0.006) | (np.isinf(found) & np.isinf(expected))
    assert agree.mean() > 0.995  # a marched ray may step over a corner


def test_culling_changes_nothing():
    """A crowd cast at once equals the nearest of every thing cast alone."""
    rng = np.random.default_rng(2)
    crowd = [
        Thing(
            [
                block((0, 0, 1), rng.uniform(0.3, 4, 3), 4, GRAY),
                rounded((0, 0, 2), (1, 2, 1), 9, GRAY),
            ],
            *rng.uniform(-40, 40, 2) + 6,
            yaw=rng.uniform(0, 6),
        )
        for _ in range(40)
    ]
    rays, origin = random_rays(3000, seed=3), np.array([0.0, 0.0, 9.0])
    alone = np.array([cast(origin, rays, World.of([thing])).distance for thing in crowd])
    np.testing.assert_array_equal(cast(origin, rays, World.of(crowd)).distance, alone.min(axis=0))


def test_neighbors_in_a_grid_meet_what_they_meet_in_any_order():
    """A shuffled tile looks everywhere, so nothing is culled for it; a tile of neighbors is."""
    drive = Drive(np.random.default_rng([0, 3]), 2, Domain.nth(0, 3))
    elevation, azimuth = np.radians(np.mgrid[-60:60:67j, 0:360:610j])
    flat = np.cos(elevation)
    grid = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)
    order = np.random.default_rng(0).permutation(67 * 610)[:6000]
    origin, world = drive.at(0).position, drive.at(0).world
    together, shuffled = cast(origin, grid, world), cast(origin, grid.reshape(-1, 3)[order], world)
    assert 0.1 < (together.part > 0).mean() < 0.9
    for one, other in zip(together, shuffled, strict=True):
        np.testing.assert_array_equal(one[order], other)


def test_shadows_on_a_bent_road_are_where_the_sun_is_hidden():
    """The map against a ray from each point of the ground toward the sun."""
    drives = (
        Drive(np.random.default_rng(seed), 2, Domain("city", "summer", "sunny"))
        for seed in range(20)
    )
    drive = next(drive for drive in drives if drive.street.curve.swing > 3)
    rng, world = np.random.default_rng(0), World.of(drive.at_rest)
    x = rng.uniform(0, 50, 400)
    y = drive.street.curve.at(x) + rng.uniform(-6, 6, 400)
    points = np.stack([x, y, np.full(400, 0.01)]).astype(np.float32)
    up = np.zeros_like(points)
    up[2] = 1
    sun = drive.look.sun
    share = drive.sun_map.light(points, up, np.full(400, sun[2], np.float32))
    hidden = [cast(point, sun[None], world).part[0] > 0 for point in points.T]
    clear = (share < 0.05) | (share > 0.95)  # not the edges, which the map softens
    assert clear.mean() > 0.6 and 0.1 < np.mean(hidden) < 0.9
    assert np.mean((share < 0.5)[clear] == np.array(hidden)[clear]) > 0.93


# --- streets and domains --------------------------------------------------------------------------


@pytest.fixture
def without_shadows(monkeypatch):
    """Drives without the map of shadows, which takes nearly all of their time."""
    monkeypatch.setattr("synthetic_kitti.drive.SunMap", lambda *arguments: None)


def test_the_car_drives_on_a_bent_road(without_shadows):
    """The ground under its lane is gray asphalt at every frame; off the road it is grass."""
    domain, checked = Domain("country", "summer", "overcast"), 0
    for seed in range(6):
        drive = Drive(np.random.default_rng(seed), 60, domain)
        if not drive.street.curve.swing:
            continue
        places = np.array([drive.at(frame).position for frame in range(0, 60, 3)]).T
        assert np.ptp(places[1]) > 2  # it really turns
        up, part = np.zeros_like(places), np.zeros(places.shape[1], int)
        up[2], foot = 1, np.full(places.shape[1], 0.3, np.float32)
        world = World.of([])
        road, _ = surface(places.astype(np.float32), up, part, foot, world, drive.street)
        assert np.ptp(road, axis=0).max() < 0.05  # gray, be it asphalt or a mark
        places[1] += drive.street.curb - drive.lane + 3
        grass, _ = surface(places.astype(np.float32), up, part, foot, world, drive.street)
        assert (grass[1] > 1.5 * grass[2]).all()
        checked += 1
    assert checked >= 3


def test_nobody_drives_into_anybody(without_shadows):
    for seed in range(20):
        drive = Drive(np.random.default_rng(seed), 5, Domain.nth(0, seed))
        boxes = [(thing, *thing.contact) for thing in drive.moving if thing.contact[0] > 1]
        assert len(boxes) > 0
        for seconds in (0.0, 1.5, 3.0):
            own = (drive.speed * seconds, drive.lane, 2.3, 0.9)
            cars = [own] + [
                (thing.x + thing.velocity * seconds, thing.y, long, wide)
                for thing, long, wide in boxes
            ]
            x, y, long, wide = np.array(cars).T
            apart = np.abs(x[:, None] - x) - (long[:, None] + long)
            aside = np.abs(y[:, None] - y) - (wide[:, None] + wide)
            clear = np.maximum(apart, aside) > 0
            np.fill_diagonal(clear, True)
            assert clear.all(), (seed, seconds)


def test_any_run_of_drives_is_varied():
    numbers = [Domain.nth(1, number) for number in range(1, 2001)]
    for position, table in enumerate((STREETS, SEASONS, LIGHTS)):
        names = [domain[position] for domain in numbers]
        for name, share in table.items():
            assert names.count(name) / 2000 == pytest.approx(share, abs=0.01)
        for start in range(0, 1900, 100):
            assert len(set(names[start : start + 6])) >= 2
            assert set(names[start : start + 60]) == set(table)


def test_domains_look_like_their_names():
    """The same random numbers give other pictures of another domain."""
    rig = Rig(0.06)

    def photo(season, light):
        pictures = []
        for seed in range(4):
            drive = Drive(np.random.default_rng(seed), 2, Domain("country", season, light))
            image, depth = render(drive.at(0), rig, 2, np.random.default_rng(0))
            pictures.append((image / 255, depth))
        images, depths = (np.array(one) for one in zip(*pictures, strict=True))
        return images, depths

    ground = slice(15, None)
    summer, depth = photo("summer", "overcast")
    snow, _ = photo("snow", "overcast")
    assert snow[:, ground].mean() > 1.2 * summer[:, ground].mean()
    greenness = [(one[..., 1] - one[..., 2])[:, ground].mean() for one in (summer, snow)]
    assert greenness[0] > greenness[1] + 0.02
    mist, far = photo("summer", "mist")[0], depth > 30
    fading = [mist[n][far[n]].std() / summer[n][far[n]].std() for n in range(4)]
    assert np.mean(fading) < 0.8  # far things fade into the haze


# --- the sensors ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One frame of a few drives, seen by both cameras and the lidar, and its calibration."""
    folder, rig = tmp_path_factory.mktemp("date"), Rig(0.25)
    rig.write(folder)
    frames = []
    for number in (1, 3, 4):
        drive = Drive(np.random.default_rng([0, number]), 4, Domain.nth(0, number))
        moment, rng = drive.at(2), np.random.default_rng(0)
        moment = replace(moment, look=replace(moment.look, noise=0.0))
        views = {camera: render(moment, rig, camera, rng) for camera in (2, 3)}
        frames.append((views, scan(moment, 400, rng)))
    return rig, Calibration.load(folder), frames


@pytest.mark.parametrize("camera", [2, 3])
def test_projected_lidar_agrees_with_rendered_depth(recorded, camera):
    rig, calibration, frames = recorded
    for views, points in frames:
        dense = views[camera][1]
        sparse = project_velodyne(points, calibration.projection(camera), rig.shape)
        # Away from edges: where the rendered depth is smooth over the neighboring pixels.
        high, low = dense.copy(), np.where(dense > 0, dense, np.inf)
        for axis in (0, 1):
            for step in (-1, 1):
                high = np.maximum(high, np.roll(dense, step, axis))
                low = np.minimum(low, np.roll(np.where(dense > 0, dense, np.inf), step, axis))
        smooth = (sparse > 0) & (dense > 0) & (high < 1.08 * low)
        assert smooth.sum() > 800
        ratio = sparse[smooth] / dense[smooth]
        assert np.median(np.abs(ratio - 1)) < 0.01
        assert np.mean(ratio < 0.95) < 0.01
        # The lidar sits higher than the cameras and looks past near cars at what they hide.
        assert np.mean(ratio > 1.05) < 0.1


def test_right_image_shifted_by_disparity_resembles_left(recorded):
    rig, calibration, frames = recorded
    left, right = calibration.projection(2), calibration.projection(3)
    baseline_pixels = (left - right)[0, 3]
    assert baseline_pixels / rig.focal == pytest.approx(0.5327, abs=1e-3)
    for views, _ in frames:
        (one, depth), (two, _) = views[2], views[3]
        rows, columns = np.nonzero((depth > 0) & (depth < 25))
        shifted = np.round(columns - baseline_pixels / depth[rows, columns]).astype(int)
        kept = shifted >= 0
        rows, columns, shifted = rows[kept], columns[kept], shifted[kept]
        reference = one[rows, columns].mean(axis=1)
        matched = np.corrcoef(reference, two[rows, shifted].mean(axis=1))[0, 1]
        unmatched = np.corrcoef(reference, two[rows, columns].mean(axis=1))[0, 1]
        assert matched > 0.85 and matched > unmatched + 0.1


def test_every_return_lies_on_a_ring_of_the_velodyne(recorded):
    """Rings of real scans follow z = height + distance * tan(elevation), 32 for each height."""
    for _, points in recorded[2]:
        x, y, z = points[np.hypot(points[:, 0], points[:, 1]) > 5, :3].T
        off = [
            np.abs(np.degrees(np.arctan2(z - height, np.hypot(x, y)))[:, None] - beams).min(axis=1)
            for height, beams in lidar.BLOCKS
        ]
        assert np.minimum(*off).max() < 0.02
        assert all((one < 0.02).mean() > 0.2 for one in off)


# --- the files ------------------------------------------------------------------------------------


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_synthetic_kitti(tmp_path_factory.mktemp("small") / "kitti", workers=1, **SMALL)


def test_two_workers_write_the_same_bytes_and_another_seed_others(small, tmp_path):
    mine = contents(small)
    assert contents(make_synthetic_kitti(tmp_path / "two", workers=2, **SMALL)) == mine
    other = contents(make_synthetic_kitti(tmp_path / "other", workers=1, seed=1, **SMALL))
    sensors = [path for path in mine if path.suffix in (".png", ".bin")]
    assert len(sensors) == 12 and all(mine[path] != other[path] for path in sensors)


def test_layout_is_that_of_kitti_raw(small):
    dataset = KittiRaw(small)
    assert len(dataset) == 2 * 2 * 2
    depth = np.asarray(dataset.depth(0))
    assert (depth > 0).mean() > 0.05 and depth.max() <= 81
    assert (small / "2000_01_01/calib_imu_to_velo.txt").read_text().startswith("calib_time: ")
    for number in (1, 2):
        drive = small / f"2000_01_01/2000_01_01_drive_{number:04d}_sync"
        for sensor in ("image_02", "image_03", "velodyne_points"):
            assert len((drive / sensor / "timestamps.txt").read_text().splitlines()) == 2
        points = read_velodyne(drive / "velodyne_points/data/0000000001.bin")
        assert len(points) > 1000 and np.linalg.norm(points[:, :3], axis=1).max() <= 80.3
        with Image.open(drive / "image_03/data/0000000001.png") as image:
            assert image.size == Rig(0.06).shape[::-1] and image.mode == "RGB"
    manifest = json.loads((small / "synthetic.json").read_text())
    settings = {key: SMALL[key] for key in SMALL if key != "progress"}
    assert manifest == settings | {"seed": 0, "version": drives.VERSION}
    assert list(small.parent.iterdir()) == [small]


def test_existing_folder_is_kept_or_refused(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert make_synthetic_kitti(small, workers=1, **SMALL) == small
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    with pytest.raises(FileExistsError, match=r"seed.*0.*not.*5.*choose another"):
        make_synthetic_kitti(small, workers=1, seed=5, **SMALL)


def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    calls, write_drive = [], drives.write_drive

    def stops_at_the_second(*task):
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_drive(*task)

    monkeypatch.setattr(drives, "write_drive", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic_kitti(tmp_path / "kitti", workers=1, **SMALL)
    assert len(calls) == 2 and list(tmp_path.iterdir()) == []


def test_domains_are_recorded(small, tmp_path):
    names = ["2000_01_01_drive_0001", "2000_01_01_drive_0002"]
    assert read_domains(small) == {name: Domain.nth(0, n + 1) for n, name in enumerate(names)}
    described = json.loads((small / f"2000_01_01/{names[0]}_sync/drive.json").read_text())
    assert described["street"] == Domain.nth(0, 1).street and described["speed_m_per_s"] > 0
    broken = tmp_path / "2000_01_01" / "2000_01_01_drive_0003_sync" / "drive.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"street": "city"}')
    with pytest.raises(ValueError, match=r"drive.json does not describe.*street, season, light"):
        read_domains(tmp_path)
