"""3-D Gaussians to start a splatting optimiser from, as PLY.

Source of the format and of the way to begin: Kerbl et al., "3D Gaussian Splatting for Real-Time
Radiance Field Rendering", 2023, and its public code: opacity is stored as logit, scale as natural
logarithm, rotation as quaternion wxyz, colour as (rgb - 0.5) / 0.28209479. Positions and scales
are in the frame and unit of the map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import ExportError
from vggt_ros.export.ply import column_properties, ply_header
from vggt_ros.export.rows import (
    Columns,
    array_columns,
    check_cloud,
    chunks,
    cloud_comments,
    write_table,
)
from vggt_ros.types import Float32, PointCloud

SH_C0 = 0.28209479177387814
"""Spherical harmonic of degree 0: 1 / (2 sqrt(pi))."""

NEIGHBOURS = 3
"""Whose distance is the size of a Gaussian (Kerbl et al., section 5.1)."""

THICKNESS = 0.1
"""Along the normal, as a fraction of the size along the surface."""

START_OPACITY = 0.1
"""Where nothing is known of a point's confidence (value of the public code)."""

OPACITY_LIMITS = (0.01, 0.99)
"""So that the logit stays finite and an optimiser can still move it."""

SMALLEST = 1e-7
"""Scale of points that lie on each other."""

_CHUNK = 1 << 18


@dataclass(frozen=True)
class GaussianOptions:
    """How points become Gaussians."""

    sh_degree: int = 0
    """0: 17 properties; 1 to 3: with 9, 24 or 45 `f_rest` of zeros, as some viewers expect."""
    scale: float = 0.0
    """Size of each Gaussian in map units; 0: from the distance of its neighbours."""
    opacity: float = 0.0
    """Of each Gaussian; 0: from the confidence, or `START_OPACITY` where there is none."""

    def check(self) -> None:
        """Raises ExportError for a number out of its range."""
        if self.sh_degree not in (0, 1, 2, 3):
            raise ExportError(f"sh_degree: expected 0, 1, 2 or 3, got {self.sh_degree}")
        if not (self.scale >= 0 and math.isfinite(self.scale)):
            raise ExportError(f"scale: expected a length >= 0, got {self.scale}")
        if not 0 <= self.opacity < 1:
            raise ExportError(f"opacity: expected 0 to 1, got {self.opacity}")


def write_gaussians(
    path: str | Path,
    cloud: PointCloud,
    options: GaussianOptions | None = None,
    *,
    comments: Sequence[str] = (),
    progress: bool = False,
) -> None:
    """Write one Gaussian per point, atomically.

    Properties, all float32: `x y z nx ny nz f_dc_0..2 [f_rest_0..] opacity scale_0..2 rot_0..3`.

    Args:
        path: the file; its folder must exist.
        cloud: at least one point. Normals turn the Gaussians into discs on the surface.
        options: see `GaussianOptions`.
        comments: further header lines after frame and unit.
        progress: show a bar if it takes seconds.

    Raises:
        ExportError: a wrong option, a point that is not finite, or the file cannot be written.
    """
    options = options or GaussianOptions()
    options.check()
    check_cloud(cloud)
    if len(cloud) == 0:
        raise ExportError(f"cannot write {path}: expected at least one point, got none")
    if not np.isfinite(cloud.points).all():
        raise ExportError(
            f"cannot write {path}: expected finite coordinates; leave other points out"
        )
    columns = gaussian_columns(cloud, options, progress)
    header = ply_header(
        [("vertex", len(cloud), column_properties(columns))],
        [*cloud_comments(cloud), *comments],
        False,
    )
    write_table(path, header, columns, len(cloud), progress=progress)


def gaussian_columns(
    cloud: PointCloud, options: GaussianOptions, progress: bool = False
) -> list[Columns]:
    """The columns of the file; only the scales are computed for all points at once."""
    scales = neighbour_scales(cloud.points, progress) if options.scale == 0 else None
    normals = cloud.normals

    def log_scales(rows: slice) -> NDArray[np.float32]:
        count = rows.stop - rows.start
        size = np.full(count, options.scale, np.float32) if scales is None else scales[rows]
        values = np.repeat(np.log(np.maximum(size, SMALLEST))[:, None], 3, axis=1)
        if normals is not None:
            values[_known(normals[rows]), 2] += math.log(THICKNESS)
        return values

    rest = 3 * ((options.sh_degree + 1) ** 2 - 1)
    names = [f"f_rest_{i}" for i in range(rest)]
    zeros = np.zeros((1, max(rest, 3)), np.float32)
    columns = [array_columns("xyz", cloud.points)]
    if normals is None:
        columns.append(Columns(("nx", "ny", "nz"), "<f4", _repeated(zeros[:, :3])))
    else:
        columns.append(array_columns(("nx", "ny", "nz"), normals))
    columns.append(
        Columns(
            ("f_dc_0", "f_dc_1", "f_dc_2"),
            "<f4",
            lambda rows: (cloud.colours[rows].astype(np.float32) / 255 - 0.5) / SH_C0,
        )
    )
    if rest:
        columns.append(Columns(tuple(names), "<f4", _repeated(zeros)))
    turned = np.array([[1, 0, 0, 0]], np.float32)
    return [
        *columns,
        Columns(("opacity",), "<f4", lambda rows: _logit(_opacity(cloud, options, rows))),
        Columns(("scale_0", "scale_1", "scale_2"), "<f4", log_scales),
        Columns(
            ("rot_0", "rot_1", "rot_2", "rot_3"),
            "<f4",
            _repeated(turned) if normals is None else lambda rows: rotations(normals[rows]),
        ),
    ]


def neighbour_scales(points: Float32, progress: bool = False) -> Float32:
    """Root mean square distance (N,) to the nearest `NEIGHBOURS` of each point (N, 3).

    Points with fewer neighbours get the median of the others, or 1 where there are none.
    """
    from vggt_ros.evaluation.nearest import NearestNeighbours

    tree = NearestNeighbours(points)
    scales = np.empty(len(points), np.float32)
    for part in chunks(len(tree), "neighbours", progress, _CHUNK):
        distances, rows = tree.spacing(part, NEIGHBOURS)
        scales[rows] = distances
    unknown = np.isnan(scales)
    if unknown.any():
        scales[unknown] = 1.0 if unknown.all() else np.median(scales[~unknown])
    return scales


def rotations(normals: Float32) -> Float32:
    """Quaternions wxyz (N, 4) of the shortest turn that brings z to each normal (N, 3).

    A normal that is zero or NaN gives no turn.
    """
    known = _known(normals)
    n = np.zeros((len(normals), 3))
    n[:, 2] = 1.0
    n[known] = normals[known]
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    # (1 + cos, axis * sin) is twice the cosine of the half angle times the quaternion.
    q = np.stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(len(n))], axis=1)
    q[n[:, 2] < -1 + 1e-9] = [0, 1, 0, 0]  # half a turn about any axis across z
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    return q.astype(np.float32)


def _known(normals: Float32) -> NDArray[np.bool_]:
    squared = (normals.astype(np.float64) ** 2).sum(axis=1)
    return np.isfinite(squared) & (squared > 1e-12)


def _opacity(cloud: PointCloud, options: GaussianOptions, rows: slice) -> NDArray[np.float64]:
    if options.opacity > 0:
        return np.full(rows.stop - rows.start, options.opacity)
    if cloud.confidence is None:
        return np.full(rows.stop - rows.start, START_OPACITY)
    return np.nan_to_num(cloud.confidence[rows].astype(np.float64), nan=START_OPACITY)


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(probability, *OPACITY_LIMITS)
    return np.log(p / (1 - p))


def _repeated(row: Float32) -> Callable[[slice], Float32]:
    """One row (1, K) for all."""
    return lambda rows: np.broadcast_to(row, (rows.stop - rows.start, row.shape[1]))
