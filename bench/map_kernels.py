"""The map's kernels beside what one would use otherwise, in one process, by CPU time."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured

from bench.figures import Figure, at_least, at_most
from vggt_ros.config import AlignConfig, MapConfig
from vggt_ros.errors import ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.cloud import voxel_cell_means
from vggt_ros.mapping.kernels_fit import fit_affine
from vggt_ros.mapping.kernels_planes import tile_planes
from vggt_ros.mapping.make_map import make_map
from vggt_ros.mapping.open3d_import import import_open3d
from vggt_ros.mapping.packing import pack_xyzrgb
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.mapping.surfel_view import intrinsics_of
from vggt_ros.pipeline.align_depth import DepthAligner
from vggt_ros.types import (
    DepthAlignment,
    DepthKind,
    DepthMap,
    DepthPrediction,
    PointCloud,
)

ROOM_LOW, ROOM_HIGH = np.array([-4.0, -3.0, 0.0]), np.array([4.0, 3.0, 2.8])


def figures() -> list[Figure]:
    """All kernels; without Open3D its comparisons are left out."""
    return [*voxels(), *fitting(), *packing(), *whole_step(), *tsdf()]


def voxels(count: int = 2_000_000, voxel: float = 0.02) -> list[Figure]:
    """Averages of a cloud over the cells of a grid."""
    points = _points_of_depth_images(count)
    ours = cpu_ms(lambda: voxel_cell_means(points, voxel))
    figures = [at_most("voxel average of 2 M points", ours, "CPU-ms", 49)]

    def by_numpy() -> None:
        keys = np.floor(points / voxel).astype(np.int64)
        packed = keys[:, 0] + (keys[:, 1] << 21) + (keys[:, 2] << 42)
        _, inverse = np.unique(packed, return_inverse=True)
        totals = np.bincount(inverse)
        _ = [np.bincount(inverse, points[:, i]) / totals for i in range(3)]

    figures.append(ratio("the same, numpy / ours", cpu_ms(by_numpy, 2), ours, 2))
    o3d = _open3d()
    if o3d is not None:
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.astype(np.float64)))
        peer = cpu_ms(lambda: cloud.voxel_down_sample(voxel), 3)
        figures.append(ratio("the same, Open3D / ours", peer, ours, 1.7))
    return figures


def fitting(count: int = 300_000) -> list[Figure]:
    """Scale and shift of a disparity with 2 % of noise and outliers."""
    figures = []
    rng = np.random.default_rng(0)
    for outliers, limit in ((0.3, 2e-4), (0.5, 6e-4)):
        y = 1 / rng.uniform(0.8, 6.0, count)
        scale, shift = 1.7, 0.12
        d = (y * (1 + 0.02 * rng.normal(size=count)) - shift) / scale
        wrong = rng.random(count) < outliers
        d[wrong] = rng.uniform(d.min(), d.max(), int(wrong.sum()))
        ys, ds = y.astype(np.float32), d.astype(np.float32)
        ours = cpu_ms(lambda ys=ys, ds=ds: fit_affine(ys, ds, 0.05, 0, True))
        a, b = fit_affine(ys, ds, 0.05, 0, True)[:2]
        clean = (y - shift) / scale
        error = float(np.mean(np.abs((clean - b) / a / y - 1)))
        name = f"fit of 300 k px, {outliers:.0%} outliers"
        figures += [
            at_most(name, ours, "CPU-ms", 3),
            at_most(f"{name}, error of the depth", 1e4 * error, "1e-4", 1e4 * limit),
        ]
        if outliers == 0.3:
            peer = cpu_ms(lambda ys=ys, ds=ds: _numpy_tukey(ys, ds), 3)
            figures.append(ratio(f"{name}, numpy Tukey / ours", peer, ours, 15))
    return figures


def packing(count: int = 500_000) -> list[Figure]:
    """The bytes of a PointCloud2 with x y z rgb confidence."""
    rng = np.random.default_rng(0)
    cloud = PointCloud(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), dtype=np.uint8),
        confidence=rng.random(count, dtype=np.float32),
    )
    out = np.empty(20 * count, np.uint8)
    ours = cpu_ms(lambda: pack_xyzrgb(cloud, out), 50)

    dtype = np.dtype([(n, "<f4") for n in ("x", "y", "z", "rgb", "confidence")])

    def like_sensor_msgs_py() -> None:
        # Its create_cloud, given the columns of the cloud as it asks for them.
        colours = cloud.colours.astype(np.uint32)
        packed = (colours[:, 0] << 16) | (colours[:, 1] << 8) | colours[:, 2]
        columns = np.column_stack([cloud.points, packed.view(np.float32), cloud.confidence])
        structured = unstructured_to_structured(columns, dtype=dtype)
        data = array.array("B")
        data.frombytes(memoryview(structured).cast("B"))

    peer = cpu_ms(like_sensor_msgs_py, 10)
    return [
        at_most("pack 500 k points", ours, "CPU-ms", 0.6),
        ratio("the same, the way of sensor_msgs_py / ours", peer, ours, 6),
    ]


def whole_step(cameras: int = 4, size: int = 252, sets: int = 40) -> list[Figure]:
    """Reference depth, alignment and fusion of one set into a map of a million surfels."""
    surfel_map, _ = _hall_map(1_000_000)
    model = CameraModel(size, size, 0.6 * size, 0.6 * size, (size - 1) / 2, (size - 1) / 2)
    poses = [_level_camera(0.3 * (k - 1.5), (0.25 * (k - 1.5), 0.0, 1.4)) for k in range(cameras)]
    rng = np.random.default_rng(0)
    predictions = []
    for k, pose in enumerate(poses):
        depth = _hall_depth(model, pose, 1.4)
        disparity = (1 / depth * (1 + 0.01 * rng.normal(size=depth.shape)) - 0.1) / 1.5
        predictions.append(
            DepthPrediction(
                f"camera{k}", 0, DepthKind.DISPARITY, disparity.astype(np.float32),
                np.full(depth.shape, 0.95, np.float32), model,
                np.full((*depth.shape, 3), 128, np.uint8),
            )
        )  # fmt: skip
    aligner = DepthAligner(AlignConfig())
    spent = dict.fromkeys(("reference", "align", "fuse"), 0.0)
    each: list[float] = []
    for turn in range(sets + 1):
        start = time.process_time()
        references = [surfel_map.render(model, pose).depth for pose in poses]
        rendered = time.process_time()
        maps = [
            aligner.align(prediction, reference, pose)
            for prediction, reference, pose in zip(predictions, references, poses, strict=True)
        ]
        aligned = time.process_time()
        surfel_map.fuse(maps)
        fused = time.process_time()
        if turn == 0:  # compiles
            continue
        each.append(1e3 * (fused - start))
        spent["reference"] += rendered - start
        spent["align"] += aligned - rendered
        spent["fuse"] += fused - aligned
    parts = ", ".join(f"{name} {1e3 * value / sets:.1f}" for name, value in spent.items())
    note = f"{surfel_map.size / 1e6:.2f} M surfels; {parts}"
    return [
        at_most(
            "reference, align and fuse, 4 x 252 px", float(np.median(each)), "CPU-ms", 31, note
        ),
        at_most("memory per surfel", surfel_map.memory_bytes / surfel_map.size, "bytes", 64),
    ]


def tsdf(size: tuple[int, int] = (640, 480), sets: int = 11) -> list[Figure]:
    """Integration and ray casting through the map against calling Open3D directly.

    Both take depth of any incidence; what the limit of `map.max_incidence_deg` costs besides is
    a figure of its own.
    """
    o3d = _open3d()
    if o3d is None:
        return []
    model = CameraModel(*size, 0.8 * size[0], 0.8 * size[0], size[0] / 2, size[1] / 2)
    small = CameraModel(252, 252, 0.6 * 252, 0.6 * 252, 125.5, 125.5)
    pose = _level_camera(0.1, (0.0, 0.0, 1.4))
    one = _depth_map(_hall_depth(model, pose, 1.0), model, pose)
    figures = []
    for voxel in (0.02, 0.01):
        config = MapConfig(
            kind="tsdf", voxel_m=voxel, carve=False, budget_mb=1000, max_incidence_deg=90.0
        )
        ours, direct = make_map(config), _Open3dGrid(o3d, voxel, config.max_depth_m)
        pairs = [
            (f"TSDF, integrate {size[0]}x{size[1]}, {100 * voxel:g} cm",
             lambda ours=ours: ours.fuse([one]), lambda direct=direct: direct.integrate(one)),
            (f"TSDF, ray cast 252 px, {100 * voxel:g} cm",
             lambda ours=ours: ours.render(small, pose),
             lambda direct=direct: direct.ray_cast(small, pose)),
        ]  # fmt: skip
        for name, mine, peers in pairs:
            times = _alternately(mine, peers, sets)
            figures += [
                Figure(name, times[0], "CPU-ms"),
                ratio(f"{name}, Open3D directly / ours", times[1], times[0], 0.95),
            ]
    intrinsics = intrinsics_of(model)
    planes = cpu_ms(lambda: tile_planes(one.depth, intrinsics, np.eye(3, dtype=np.float32)))
    figures.append(Figure("TSDF, incidence of 640x480", planes, "CPU-ms"))
    return figures


class _Open3dGrid:
    """Open3D's VoxelBlockGrid with its own settings, blocks of 16 voxels."""

    def __init__(self, o3d: ModuleType, voxel: float, far: float) -> None:
        core = o3d.core
        self.o3d, self.far = o3d, far
        self.grid = o3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight", "color"), (core.float32, core.uint16, core.uint16),
            (core.SizeVector([1]), core.SizeVector([1]), core.SizeVector([3])),
            voxel, 16, 20_000,
        )  # fmt: skip

    def integrate(self, depth_map: DepthMap) -> None:
        core, image = self.o3d.core, self.o3d.t.geometry.Image
        depth = image(core.Tensor(depth_map.depth))
        colour = image(core.Tensor(depth_map.rgb.astype(np.float32) / 255))
        camera = self._camera(depth_map.model, depth_map.map_from_camera)
        blocks = self.grid.compute_unique_block_coordinates(depth, *camera, 1.0, self.far, 6.0)
        self.blocks = blocks
        self.grid.integrate(blocks, depth, colour, *camera, 1.0, self.far, 6.0)

    def ray_cast(self, model: CameraModel, pose: Rigid3) -> None:
        self.grid.ray_cast(
            self.blocks, *self._camera(model, pose), model.width, model.height, ["depth"],
            1.0, 0.1, self.far, 1.0, 6.0, 14,
        )  # fmt: skip

    def _camera(self, model: CameraModel, pose: Rigid3) -> tuple[Any, Any]:
        core = self.o3d.core
        return core.Tensor(model.matrix), core.Tensor(pose.inverse().matrix)


def _alternately(ours: Callable[[], Any], peer: Callable[[], Any], times: int) -> list[float]:
    """Least CPU-ms of both, measured in turn; the median would weigh what else runs."""
    spent: list[list[float]] = [[], []]
    for turn in range(times + 2):
        for work, each in zip((ours, peer), spent, strict=True):
            start = time.process_time()
            work()
            if turn > 1:
                each.append(1e3 * (time.process_time() - start))
    return [min(each) for each in spent]


def _numpy_tukey(ys: np.ndarray, ds: np.ndarray) -> tuple[float, float]:
    """Ten steps of iteratively reweighted least squares."""
    y, d = ys.astype(np.float64), ds.astype(np.float64)
    a, b = np.polyfit(y[::100], d[::100], 1)
    for _ in range(10):
        r = d - a * y - b
        sigma = 1.4826 * np.median(np.abs(r))
        w = np.clip(1 - (r / (4.685 * sigma)) ** 2, 0, None) ** 2
        sw, sy, sd = w.sum(), (w * y).sum(), (w * d).sum()
        syy, syd = (w * y * y).sum(), (w * y * d).sum()
        a = (sw * syd - sy * sd) / (sw * syy - sy * sy)
        b = (sd - a * sy) / sw
    return float(a), float(b)


def cpu_ms(work: Callable[[], Any], repeats: int = 7) -> float:
    """Median CPU time of this process; peers with threads are charged for all of them."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def ratio(name: str, peer: float, ours: float, goal: float, note: str = "") -> Figure:
    return at_least(name, peer / ours, "x", goal, note or f"peer {peer:.3g} CPU-ms")


def _open3d() -> ModuleType | None:
    try:
        module: ModuleType = import_open3d()
    except ConfigError as error:
        print(f"bench: without Open3D: {error}")
        return None
    return module


def _points_of_depth_images(count: int) -> np.ndarray:
    """Points of eight depth images of a room in the order of their pixels, with some noise."""
    rng = np.random.default_rng(0)
    side = round((count / 8) ** 0.5)
    model = CameraModel(side, side, 0.5 * side, 0.5 * side, (side - 1) / 2, (side - 1) / 2)
    clouds = []
    for k in range(8):
        pose = _level_camera(0.25 * np.pi * k, (0.5 * np.sin(k), 0.3 * np.cos(k), 1.4))
        depth = _hall_depth(model, pose, 1.0) * (1 + 0.002 * rng.normal(size=(side, side)))
        clouds.append(pose.apply(model.unproject(depth).reshape(-1, 3)))
    return np.concatenate(clouds).astype(np.float32)


def _depth_map(depth: np.ndarray, model: CameraModel, pose: Rigid3) -> DepthMap:
    return DepthMap(
        "bench", 0, depth.astype(np.float32), np.ones(depth.shape, np.float32),
        np.full((*depth.shape, 3), 128, np.uint8), model, pose,
        DepthAlignment("bench", DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 0, True),
    )  # fmt: skip


def _level_camera(heading: float, position: tuple[float, float, float]) -> Rigid3:
    """Camera that looks horizontally, `heading` from the y axis."""
    c, s = np.cos(heading), np.sin(heading)
    rotation = np.array([[c, 0.0, s], [-s, 0.0, c], [0.0, -1.0, 0.0]])
    return Rigid3(rotation, np.array(position))


def _hall_depth(model: CameraModel, pose: Rigid3, scale: float) -> np.ndarray:
    rays = model.rays().astype(np.float64) @ pose.rotation.T
    low, high = ROOM_LOW * scale, ROOM_HIGH * scale
    with np.errstate(divide="ignore"):
        depth = np.maximum((low - pose.translation) / rays, (high - pose.translation) / rays)
    return np.asarray(depth.min(axis=2))


def _hall_map(count: int) -> tuple[SurfelMap, float]:
    """A hall of about `count` surfels seen all around from its middle."""
    model = CameraModel(600, 600, 300.0, 300.0, 299.5, 299.5)
    # Surface of the hall over the number of surfels, one for each cell of a plane.
    edges = (ROOM_HIGH - ROOM_LOW) * 1.4
    area = 2 * (edges[0] * edges[1] + edges[1] * edges[2] + edges[2] * edges[0])
    voxel = float(np.sqrt(1.1 * area / count))
    surfel_map = SurfelMap(MapConfig(voxel_m=voxel))
    views = [
        _level_camera(0.25 * np.pi * k, (x, y, 1.5))
        for x in (-3.0, 0.0, 3.0)
        for y in (-2.0, 2.0)
        for k in range(8)
    ]
    for pose in views:
        surfel_map.fuse([_depth_map(_hall_depth(model, pose, 1.4), model, pose)])
    return surfel_map, voxel


if __name__ == "__main__":
    for figure in figures():
        note_ = f" ({figure.note})" if figure.note else ""
        mark = {True: "met", False: "MISSED", None: ""}[figure.met]
        print(f"{figure.name}{note_}: {figure.value:.4g} {figure.unit} {figure.goal} {mark}")
