"""Rendering of a surfel map beside its peers, in one process, by CPU time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from bench.figures import Figure, at_least, at_most
from bench.map_kernels import _depth_map, _open3d, cpu_ms, ratio
from vggt_ros.config import MapConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.kernels_paint import unpacked
from vggt_ros.mapping.kernels_splat import level_offsets, splat
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.mapping.surfel_view import intrinsics_of, rotation_translation


def figures(count: int = 1_000_000, size: int = 518) -> list[Figure]:
    """Depth of a million surfels in eight cameras that see nearly all of them."""
    surfel_map, points = _wall_map(count)
    model = CameraModel(size, size, 0.75 * size, 0.75 * size, (size - 1) / 2, (size - 1) / 2)
    poses = [
        Rigid3.from_rotation_vector((0.0, 0.04 * (k - 3.5), 0.0), (0.1 * (k - 3.5), 0.0, 0.0))
        for k in range(8)
    ]
    ours = cpu_ms(lambda: [surfel_map.render(model, pose) for pose in poses])
    note = f"{surfel_map.size / 1e6:.2f} M surfels, holes closed"
    inner = slice(size // 4, -size // 4)
    holes = np.mean(
        [np.isnan(surfel_map.render(model, p).depth[inner, inner]).mean() for p in poses]
    )
    found = [
        at_most("render 1 M surfels to 8 x 518x518", ours, "CPU-ms", 22, note),
        Figure("pixels without depth in the middle", 100 * float(holes), "%"),
    ]

    # The peers draw points of a pixel and leave the holes: so do we, beside them.
    points_only = cpu_ms(lambda: [_points_drawn(surfel_map, model, pose) for pose in poses], 9)
    found.append(Figure("the same, points of a pixel only", points_only, "CPU-ms"))
    ours_1px = f"points of a pixel: ours {points_only:.3g} CPU-ms"
    for name, drawn, goal in (
        ("a plain numba loop", _drawn_by_a_loop, None),
        ("numpy, the farthest first", _drawn_far_to_near, 20),
        ("numpy, np.minimum.at", _drawn_by_minimum_at, None),
    ):
        spent = cpu_ms(partial(_all, drawn, points, model, poses), 3)
        times, note = spent / points_only, f"{ours_1px}, peer {spent:.3g}"
        found.append(
            at_least(f"the same, {name} / ours", times, "x", goal, note)
            if goal
            else Figure(f"the same, {name} / ours", times, "x", note=note)
        )
    o3d = _open3d()
    if o3d is not None:
        core = o3d.core
        cloud = o3d.t.geometry.PointCloud(core.Tensor(points))
        intrinsics = core.Tensor(model.matrix)
        extrinsics = [core.Tensor(pose.inverse().matrix) for pose in poses]

        def by_open3d() -> None:
            for extrinsic in extrinsics:
                cloud.project_to_depth_image(size, size, intrinsics, extrinsic, 1.0, 100.0)

        peer = cpu_ms(by_open3d, 3)
        note = f"holes closed: ours {ours:.3g} CPU-ms; points of a pixel: peer {peer:.3g}"
        found.append(ratio("the same, Open3D / ours", peer, ours, 5, note))
    return found


def _all(
    drawn: Callable[..., Any], points: np.ndarray, model: CameraModel, poses: Sequence[Rigid3]
) -> None:
    for pose in poses:
        drawn(points, model, pose)


def _points_drawn(surfel_map: SurfelMap, model: CameraModel, pose: Rigid3) -> np.ndarray:
    """Depth image (H, W) of the map's kernels without what closes holes."""
    rotation, translation = rotation_translation(pose.inverse())
    cells, _, _ = splat(
        surfel_map._surfels.position,
        surfel_map._rows,
        surfel_map._visible(model, rotation, translation, 0.0),
        rotation,
        translation,
        intrinsics_of(model),
        surfel_map.config.voxel_m,
        model.width,
        model.height,
        level_offsets(model.width, model.height),
        False,
    )
    return np.asarray(unpacked(cells, model.width, model.height))


@njit(error_model="numpy")
def _loop(points, rotation, translation, fx, fy, cx, cy, width, height):  # type: ignore[no-untyped-def]
    depth = np.full(width * height, np.float32(np.inf))
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        d = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + translation[2]
        if d > 0:
            px = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + translation[0]
            py = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + translation[1]
            u, v = np.int32(np.rint(fx * px / d + cx)), np.int32(np.rint(fy * py / d + cy))
            if 0 <= u < width and 0 <= v < height:
                depth[v * width + u] = min(depth[v * width + u], d)
    return depth


def _drawn_by_a_loop(points: np.ndarray, model: CameraModel, pose: Rigid3) -> np.ndarray:
    camera = rotation_translation(pose.inverse())
    inner = (np.float32(x) for x in (model.fx, model.fy, model.cx, model.cy))
    drawn: Any = _loop
    return np.asarray(drawn(points, *camera, *inner, model.width, model.height))


def _projected(
    points: np.ndarray, model: CameraModel, pose: Rigid3
) -> tuple[np.ndarray, np.ndarray]:
    """Pixel and depth of the points in the image; float32, columns apart, one thread."""
    r, t = rotation_translation(pose.inverse())
    x, y, z = (np.ascontiguousarray(points[:, axis]) for axis in range(3))
    depth = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + t[2]
    fx, fy, cx, cy = (np.float32(v) for v in (model.fx, model.fy, model.cx, model.cy))
    u = np.rint(fx * (r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + t[0]) / depth + cx)
    v = np.rint(fy * (r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + t[1]) / depth + cy)
    u, v = u.astype(np.int32), v.astype(np.int32)
    inside = (depth > 0) & (u >= 0) & (v >= 0) & (u < model.width) & (v < model.height)
    return (v * np.int32(model.width) + u)[inside], depth[inside]


def _drawn_by_minimum_at(points: np.ndarray, model: CameraModel, pose: Rigid3) -> np.ndarray:
    """A loop in C since NumPy 1.25, ten times slower before."""
    at, z = _projected(points, model, pose)
    depth = np.full(model.width * model.height, np.inf, np.float32)
    np.minimum.at(depth, at, z)
    return depth


def _drawn_far_to_near(points: np.ndarray, model: CameraModel, pose: Rigid3) -> np.ndarray:
    """Sorted by depth, so that the nearest is written last.

    Of the ways of numpy the one that takes 20 to 30 times as long as a plain numba loop, as does
    the peer that the goal was set for (500 CPU-ms where such a loop took 21).
    """
    at, z = _projected(points, model, pose)
    order = np.argsort(-z)
    depth = np.full(model.width * model.height, np.inf, np.float32)
    depth[at[order]] = z[order]
    return depth


def _wall_map(count: int) -> tuple[SurfelMap, np.ndarray]:
    """A bumpy wall of about `count` surfels before the camera at the origin, looking along z."""
    side = round(count**0.5)
    model = CameraModel(side, side, 0.8 * side, 0.8 * side, (side - 1) / 2, (side - 1) / 2)
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    depth = 3.0 + 0.5 * x + 0.2 * np.sin(3 * x) * np.cos(4 * y)
    surfel_map = SurfelMap(MapConfig(voxel_m=1.5 / side))
    for _ in range(3):  # surfels seen less often are drawn in a pass of their own
        surfel_map.fuse([_depth_map(depth, model, Rigid3.identity())])
    return surfel_map, surfel_map.cloud().points
