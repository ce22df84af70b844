"""Ground truth for evaluation: surface points that cameras see, and distances to surfaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.synthetic import kernels
from vggt_ros.synthetic.lighting import face_points
from vggt_ros.synthetic.primitives import FACE_COUNTS, Shape, face_frame
from vggt_ros.synthetic.world import Geometry, World

Array = NDArray[np.float64]

_HIT_TOLERANCE = 1e-6
"""A ray that reaches this fraction of the way to a point has seen it."""


def surface_points(
    world: World,
    cameras: Sequence[tuple[CameraModel, Rigid3]],
    spacing_m: float,
    min_views: int = 1,
    time_s: float | None = None,
) -> Array:
    """Points spread evenly over the static surfaces that cameras see.

    Args:
        world: what is looked at.
        cameras: model and `map_from_camera` of each.
        spacing_m: pitch of the grid on each face; each point stands for its square.
        min_views: cameras that must see a point: inside the image and not hidden by a surface
            that stands still.
        time_s: of moving objects that hide; None leaves moving objects away.

    Returns:
        (N, 3) in map [m].
    """
    points, views = surface_visibility(world, cameras, spacing_m, time_s)
    return points[views.sum(axis=1) >= min_views]


def surface_visibility(
    world: World,
    cameras: Sequence[tuple[CameraModel, Rigid3]],
    spacing_m: float,
    time_s: float | None = None,
) -> tuple[Array, NDArray[np.bool_]]:
    """All points of the grids of `surface_points`, (N, 3), and which camera sees them (N, C)."""
    if not spacing_m > 0:
        raise ValueError(f"spacing_m: expected > 0, got {spacing_m}")
    geometry = world.geometry(time_s or 0.0)
    points, normals, two_sided = _grids(world, geometry, spacing_m)
    skip = world.is_moving if time_s is None else np.zeros(len(world.is_moving), bool)
    views = np.zeros((len(points), len(cameras)), bool)
    for k, (model, map_from_camera) in enumerate(cameras):
        centre = map_from_camera.translation
        towards = points - centre
        facing = two_sided | (np.einsum("ij,ij->i", towards, normals) < 0)
        inside = np.zeros(len(points), bool)
        inside[facing] = _in_image(model, map_from_camera.inverse().apply(points[facing]))
        chosen = np.flatnonzero(inside)
        hit = kernels.cast_rays(
            geometry.shapes,
            geometry.half,
            geometry.rotations,
            geometry.places,
            np.broadcast_to(centre, (len(chosen), 3)).copy(),
            towards[chosen],
            skip,
        )[0]
        views[chosen, k] = hit >= 1 - _HIT_TOLERANCE
    return points, views


def distance_to_surface(
    world: World, points_in_map: ArrayLike, time_s: float | None = None
) -> Array:
    """Distance of points (N, 3) to the nearest surface (N,) [m], unsigned and exact.

    Args:
        world: whose surfaces.
        points_in_map: (N, 3) [m].
        time_s: where moving objects are; None leaves them away.
    """
    geometry = world.geometry(time_s or 0.0)
    use = ~world.is_moving if time_s is None else np.ones(len(world.is_moving), bool)
    return _distance(geometry, use, points_in_map)


def distance_to_moving(world: World, points_in_map: ArrayLike, time_s: float) -> Array:
    """Distance of points (N, 3) to the objects that move (N,) [m], as they are at a time."""
    return _distance(world.geometry(time_s), world.is_moving, points_in_map)


def _distance(geometry: Geometry, use: NDArray[np.bool_], points_in_map: ArrayLike) -> Array:
    points = np.ascontiguousarray(points_in_map, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points_in_map: expected shape (N, 3), got {points.shape}")
    return np.asarray(
        kernels.distances(
            geometry.shapes,
            geometry.half,
            geometry.rotations,
            geometry.places,
            points,
            ~use,
        )
    )


def _grids(
    world: World, geometry: Geometry, spacing_m: float
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Grid points and normals in map of all faces that stand still; whether seen from behind."""
    points, normals, two_sided = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros(0, bool)]
    for index, primitive in enumerate(world.primitives):
        if world.is_moving[index]:
            continue
        for face in range(FACE_COUNTS[primitive.shape]):
            width, height = face_frame(primitive.shape, primitive.size, face)[3:]
            columns, rows = (max(round(s / spacing_m), 1) for s in (width, height))
            u, v = (
                array.ravel()
                for array in np.meshgrid(
                    (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
                )
            )
            at, normal = face_points(primitive.shape, primitive.size, face, u, v)
            keep = np.ones(len(at), bool)
            if primitive.shape is Shape.CYLINDER and face > 0:
                keep = np.hypot(at[:, 0], at[:, 1]) <= primitive.size[0] / 2
            if primitive.shape is Shape.SPHERE:  # rows near the poles are shorter
                latitude = np.arcsin(np.clip(normal[:, 2], -1, 1))
                column = np.tile(np.arange(columns), rows)
                wanted = np.maximum(np.rint(np.cos(latitude) * columns), 1)
                keep = (column * wanted) % columns < wanted
            rotation = geometry.rotations[index]
            points.append(at[keep] @ rotation.T + geometry.places[index])
            normals.append(normal[keep] @ rotation.T)
            two_sided.append(np.full(int(keep.sum()), primitive.shape is Shape.RECTANGLE))
    return np.concatenate(points), np.concatenate(normals), np.concatenate(two_sided)


def _in_image(model: CameraModel, points_in_camera: Array) -> NDArray[np.bool_]:
    """Which points (N, 3) fall on a pixel; a ray too oblique for the distortion falls on none."""
    with np.errstate(all="ignore"):
        pixels = model.project(points_in_camera)
        ideal = model.without_distortion().project(points_in_camera)
    inside = (pixels > -0.5).all(axis=1) & (pixels < [model.width - 0.5, model.height - 0.5]).all(
        axis=1
    )
    if model.is_distorted:
        # Beyond its range a polynomial folds rays back into the image; only rays inside the
        # image of the inverse are real.
        from vggt_ros.synthetic.rays import pixel_rays

        rays = pixel_rays(model)[0].reshape(-1, 2)
        low, high = np.nanmin(rays, axis=0), np.nanmax(rays, axis=0)
        focal, centre = [model.fx, model.fy], [model.cx, model.cy]
        xy = (ideal - centre) / focal
        margin = 0.01 * (high - low)
        inside &= ((xy >= low - margin) & (xy <= high + margin)).all(axis=1)
    return np.asarray(inside)
