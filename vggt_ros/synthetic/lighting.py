"""Light that is painted onto the faces once: soft shadows of lamps and darker corners.

It does not depend on the viewer, so a surface has the same colour in every camera. Objects that
move neither cast shadows nor receive them; they are lit as where they are at time 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

from vggt_ros.synthetic import kernels
from vggt_ros.synthetic.primitives import FACE_COUNTS, Shape, face_frame
from vggt_ros.types import Float32

if TYPE_CHECKING:
    from vggt_ros.synthetic.world import World

_TEXEL_M = 0.06
"""Size of a light map texel; finer shows no more, as the lamps are soft."""
_OCCLUSION_RAYS = 48
_OCCLUSION_REACH_M = 0.7
"""Only what is nearer than this darkens a corner."""
_LAMP_RAYS = 24


@dataclass(frozen=True)
class Lamp:
    """A spherical lamp.

    `position` in map [m], `radius` [m], `power` (RGB): linear light on a surface at 1 m that
    faces it.
    """

    position: tuple[float, float, float]
    radius: float
    power: tuple[float, float, float]


@dataclass(frozen=True)
class Ambient:
    """Light from everywhere (RGB, linear)."""

    power: tuple[float, float, float]


def light_maps(world: World) -> list[Float32]:
    """Light on every face of a world, (h, w, 3) each, first row at the lower edge."""
    geometry = world.geometry(0.0)
    lamps = [lamp for lamp in world.lamps if isinstance(lamp, Lamp)]
    ambient = np.zeros(3)
    for lamp in world.lamps:
        if isinstance(lamp, Ambient):
            ambient += lamp.power
    positions, normals, shapes, moving = [], [], [], []
    for index, primitive in enumerate(world.primitives):
        for face in range(FACE_COUNTS[primitive.shape]):
            points, normal = _face_points(primitive.shape, primitive.size, face)
            rotation, place = geometry.rotations[index], geometry.places[index]
            positions.append(points.reshape(-1, 3) @ rotation.T + place)
            normals.append(normal.reshape(-1, 3) @ rotation.T)
            shapes.append(points.shape[:2])
            moving.append(np.full(points.shape[0] * points.shape[1], world.is_moving[index]))
    light = _gather(
        geometry.shapes,
        geometry.half,
        geometry.rotations,
        geometry.places,
        world.is_moving,
        np.concatenate(positions),
        np.concatenate(normals),
        np.concatenate(moving),
        np.array([lamp.position for lamp in lamps], np.float64).reshape(-1, 3),
        np.array([lamp.radius for lamp in lamps], np.float64),
        np.array([lamp.power for lamp in lamps], np.float64).reshape(-1, 3),
        ambient,
        _sphere(_LAMP_RAYS),
        _sphere(_OCCLUSION_RAYS),
        _OCCLUSION_REACH_M,
    )
    maps, start = [], 0
    for rows, columns in shapes:
        maps.append(light[start : start + rows * columns].reshape(rows, columns, 3))
        start += rows * columns
    return maps


def _face_points(
    shape: Shape, size: tuple[float, float, float], face: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and outward normals (h, w, 3) of the light map texels, in the primitive."""
    width, height = face_frame(shape, size, face)[3:]
    columns = int(np.clip(round(width / _TEXEL_M), 1, 256))
    rows = int(np.clip(round(height / _TEXEL_M), 1, 256))
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return face_points(shape, size, face, u, v)


def face_points(
    shape: Shape,
    size: tuple[float, float, float],
    face: int,
    u: NDArray[np.float64],
    v: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and outward normals (..., 3) of face coordinates in [0, 1], in the primitive.

    The inverse of `drawing.face_coordinates`.
    """
    if shape is Shape.SPHERE or (shape is Shape.CYLINDER and face == 0):
        angle = u * 2 * np.pi - np.pi
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
        if shape is Shape.CYLINDER:
            z = (v - 0.5) * size[2]
            return ring * (size[0] / 2) + z[..., None] * [0, 0, 1], ring
        latitude = ((v - 0.5) * np.pi)[..., None]
        normal = ring * np.cos(latitude) + np.sin(latitude) * [0, 0, 1]
        return normal * (size[0] / 2), normal
    corner, u_axis, v_axis, width, height = face_frame(shape, size, face)
    points = corner + u[..., None] * width * u_axis + v[..., None] * height * v_axis
    return points, np.broadcast_to(np.cross(u_axis, v_axis), points.shape)


def _sphere(count: int) -> NDArray[np.float64]:
    """(count, 3) unit vectors spread evenly (Fibonacci lattice)."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    angle = math.pi * (1 + math.sqrt(5)) * k
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


@numba.njit(cache=True, nogil=True)
def _is_blocked(shapes, half, rotations, places, among, origin, direction, reach):
    """Whether a primitive of `among` lies on origin + t * direction for 0 < t < reach."""
    bx, by, bz = direction[0], direction[1], direction[2]
    for p in among:
        r = rotations[p]
        ax = origin[0] - places[p, 0]
        ay = origin[1] - places[p, 1]
        az = origin[2] - places[p, 2]
        t, _ = kernels.intersect(
            shapes[p],
            half[p, 0],
            half[p, 1],
            half[p, 2],
            r[0, 0] * ax + r[1, 0] * ay + r[2, 0] * az,
            r[0, 1] * ax + r[1, 1] * ay + r[2, 1] * az,
            r[0, 2] * ax + r[1, 2] * ay + r[2, 2] * az,
            r[0, 0] * bx + r[1, 0] * by + r[2, 0] * bz,
            r[0, 1] * bx + r[1, 1] * by + r[2, 1] * bz,
            r[0, 2] * bx + r[1, 2] * by + r[2, 2] * bz,
            0.0,
        )
        if t < reach:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _near_segment(half, places, skip, start, end, margin, out):
    """Primitives whose bounding sphere comes within `margin` of a segment; their number."""
    count = 0
    dx, dy, dz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    length2 = max(dx * dx + dy * dy + dz * dz, 1e-12)
    for p in range(len(half)):
        if skip[p]:
            continue
        ex = places[p, 0] - start[0]
        ey = places[p, 1] - start[1]
        ez = places[p, 2] - start[2]
        s = min(max((ex * dx + ey * dy + ez * dz) / length2, 0.0), 1.0)
        ex, ey, ez = ex - s * dx, ey - s * dy, ez - s * dz
        radius = math.sqrt(half[p, 0] ** 2 + half[p, 1] ** 2 + half[p, 2] ** 2) + margin
        if ex * ex + ey * ey + ez * ez < radius * radius:
            out[count] = p
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _gather(
    shapes, half, rotations, places, skip, points, normals, moving,
    lamp_positions, lamp_radii, lamp_powers, ambient, lamp_rays, sky_rays, reach,
):  # fmt: skip
    """Light (N, 3) float32 on points with normals."""
    light = np.zeros((len(points), 3), np.float32)
    among = np.empty(len(shapes), np.int64)
    origin, d = np.empty(3), np.empty(3)
    for i in range(len(points)):
        n = normals[i]
        for c in range(3):
            origin[c] = points[i, c] + 1e-4 * n[c]
        count = 0
        if not moving[i]:
            count = _near_segment(half, places, skip, origin, origin, reach, among)
        open_sky, total = 0.0, 0.0
        for s in range(len(sky_rays)):
            cosine = sky_rays[s, 0] * n[0] + sky_rays[s, 1] * n[1] + sky_rays[s, 2] * n[2]
            if cosine <= 0.0:
                continue
            total += cosine
            if not _is_blocked(
                shapes, half, rotations, places, among[:count], origin, sky_rays[s], reach
            ):
                open_sky += cosine
        for c in range(3):
            light[i, c] = ambient[c] * (0.35 + 0.65 * open_sky / max(total, 1e-9))
        for k in range(len(lamp_positions)):
            lamp, radius = lamp_positions[k], lamp_radii[k]
            facing = 0.0
            for c in range(3):
                facing += (lamp[c] - origin[c]) * n[c]
            if facing <= -radius:
                continue
            if not moving[i]:
                count = _near_segment(half, places, skip, origin, lamp, radius, among)
            seen = 0.0
            for s in range(len(lamp_rays)):
                for c in range(3):
                    d[c] = lamp[c] + radius * lamp_rays[s, c] - origin[c]
                distance2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
                cosine = (d[0] * n[0] + d[1] * n[1] + d[2] * n[2]) / math.sqrt(distance2)
                if cosine <= 0.0:
                    continue
                if not _is_blocked(shapes, half, rotations, places, among[:count], origin, d, 1.0):
                    seen += cosine / (distance2 + 0.3)
            for c in range(3):
                light[i, c] += lamp_powers[k, c] * seen / len(lamp_rays)
    return light
