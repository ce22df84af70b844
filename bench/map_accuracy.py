"""The maps and the depth alignment on the recorded depth of a real sequence.

Even frames are fused at 320x240 with 1 % of added noise, odd frames are held out. Poses are those
of the depth camera, as stored; the recorded depth agrees across views to 0.3 to 1 %, which bounds
what any map can reach. Distances are to the held-out points at the full recorded resolution: at
320x240 they lie so far apart that even the recorded points of the even frames, without noise, are
2.8 mm (median) from them.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from bench.figures import Figure, at_least, at_most, shared_data
from bench.indoor_sequence import DEPTH_CAMERA
from vggt_ros.config import AlignConfig, MapConfig
from vggt_ros.errors import ConfigError
from vggt_ros.evaluation.nearest import NearestNeighbours
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.interface import Map
from vggt_ros.mapping.make_map import make_map
from vggt_ros.pipeline.align_depth import DepthAligner, apply_fit
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap, DepthPrediction

MODEL = DEPTH_CAMERA.resized(320, 240)
VOXEL_M = 0.01


class Recorded:
    """Depth (H, W) [m], NaN invalid, and pose of one frame."""

    def __init__(self, name: str, folder: Path) -> None:
        raw = cv2.imread(str(folder / f"{name}.depth.png"), cv2.IMREAD_UNCHANGED)
        full = raw.astype(np.float32) / 1000
        full[(raw == 0) | (raw == 65535)] = np.nan
        self.full_depth = full
        self.depth = cv2.resize(full, MODEL.size, interpolation=cv2.INTER_NEAREST)
        pose = np.loadtxt(folder / f"{name}.pose.txt")
        self.map_from_camera = Rigid3(_orthonormal(pose[:3, :3]), pose[:3, 3])


def figures() -> list[Figure]:
    """Accuracy of the fused map and of alignments to it; nothing without the data."""
    data = shared_data()
    if data is None:
        print("bench: without the indoor sequence (shared data not found)")
        return []
    folder = data / "indoor_sequence"
    names = sorted(p.name[: -len(".depth.png")] for p in folder.glob("*.depth.png"))
    frames = [Recorded(name, folder) for name in names]
    surfel_map = fused(frames[::2])
    return [
        *_map_figures(surfel_map, frames),
        *_tsdf_figures(frames),
        *_alignment_figures(surfel_map, frames),
    ]


def fused(frames: list[Recorded], carve: bool = True, kind: str = "surfel") -> Map:
    """A map of the frames' depth with 1 % of noise."""
    surfel_map = make_map(MapConfig(kind=kind, voxel_m=VOXEL_M, carve=carve))
    rng = np.random.default_rng(0)
    for frame in frames:
        noise = 1 + 0.01 * rng.normal(size=frame.depth.shape)
        surfel_map.fuse([_depth_map((frame.depth * noise).astype(np.float32), frame)])
    return surfel_map


def _map_figures(surfel_map: Map, frames: list[Recorded]) -> list[Figure]:
    held_out = NearestNeighbours(_held_out(frames))
    everything = NearestNeighbours(np.concatenate([_points(f) for f in frames]))
    points = surfel_map.cloud(min_hits=3).points
    distance = held_out.query(points)[0]
    off = everything.query(points)[0] > 0.05
    along = [
        np.abs(surfel_map.render(MODEL, f.map_from_camera).depth / f.depth - 1)
        for f in frames[1::2]
    ]
    before = _in_front(fused(frames[::2], carve=False).cloud(min_hits=3).points, frames)
    after = _in_front(surfel_map.cloud(min_hits=3).points, frames)
    note = f"{len(points)} surfels of {100 * VOXEL_M:g} cm with 3 hits"
    return [
        at_most("surfels to held-out points, median", 1e3 * float(np.median(distance)), "mm", 3,
                note),
        at_most("rendered depth in held-out views, median",
                100 * float(np.nanmedian(np.concatenate(along))), "%", 1.1),
        at_most("surfels farther than 5 cm from any surface", 100 * float(off.mean()), "%", 0.1),
        at_most("surfels 5 cm in front of most views, without carving", 100 * before, "%", 3),
        at_most("surfels 5 cm in front of most views, with carving", 100 * after, "%", 1),
    ]  # fmt: skip


def _tsdf_figures(frames: list[Recorded]) -> list[Figure]:
    """The TSDF; nothing without Open3D."""
    try:
        tsdf = fused(frames[::2], kind="tsdf")
    except ConfigError as error:
        print(f"bench: {error}")
        return []
    points = tsdf.cloud(min_hits=3).points
    distance = NearestNeighbours(_held_out(frames)).query(points)[0]
    along = [
        np.abs(tsdf.render(MODEL, f.map_from_camera).depth / f.depth - 1) for f in frames[1::2]
    ]
    note = f"{len(points)} points of voxels of {100 * VOXEL_M:g} cm with 3 hits"
    return [
        at_most("TSDF points to held-out points, median", 1e3 * float(np.median(distance)), "mm",
                500 * VOXEL_M, note),
        Figure("TSDF, rendered depth in held-out views, median",
               100 * float(np.nanmedian(np.concatenate(along))), "%"),
    ]  # fmt: skip


def _held_out(frames: list[Recorded]) -> np.ndarray:
    """Points of the odd frames at the full recorded resolution."""
    clouds = []
    for frame in frames[1::2]:
        points = DEPTH_CAMERA.unproject(frame.full_depth).reshape(-1, 3)
        points = frame.map_from_camera.apply(points[np.isfinite(points).all(axis=1)])
        clouds.append(points.astype(np.float32))
    return np.concatenate(clouds)


def _alignment_figures(surfel_map: Map, frames: list[Recorded]) -> list[Figure]:
    """Disparities of a random scale and shift, 2 % noise, 20 % outliers, blurred edges."""
    rng = np.random.default_rng(1)
    aligner = DepthAligner(AlignConfig())
    bias, neighbour, scales, accepted = [], [], [], 0
    for index, frame in enumerate(frames):
        scale, shift = rng.uniform(0.3, 3.0), rng.uniform(-0.1, 0.2)
        known = np.isfinite(frame.depth)
        inverse = np.where(known, 1 / frame.depth, 0.0).astype(np.float32)
        spread = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 1.5)
        blurred = cv2.GaussianBlur(inverse, (0, 0), 1.5) / np.maximum(spread, 1e-6)
        edge = np.abs(blurred / np.maximum(inverse, 1e-6) - 1) > 0.03
        clean = (inverse - shift) / scale
        noisy = np.where(edge, (blurred - shift) / scale, clean)
        noisy = noisy + 0.02 * inverse / scale * rng.normal(size=noisy.shape)
        wrong = rng.random(noisy.shape) < 0.2
        noisy[wrong] = rng.uniform(noisy[known].min(), noisy[known].max(), int(wrong.sum()))
        noisy[~known] = np.nan
        prediction = DepthPrediction(
            "front", index, DepthKind.DISPARITY, noisy.astype(np.float32),
            np.ones(noisy.shape, np.float32), MODEL, np.zeros((*noisy.shape, 3), np.uint8),
        )  # fmt: skip
        reference = surfel_map.render(MODEL, frame.map_from_camera).depth
        result = aligner.align(prediction, reference, frame.map_from_camera)
        accepted += result.alignment.accepted
        if not result.alignment.accepted:
            continue
        fitted = apply_fit(
            clean.astype(np.float32), DepthKind.DISPARITY,
            result.alignment.scale, result.alignment.shift,
        )  # fmt: skip
        ratio = np.where(known, fitted / frame.depth, np.nan)
        bias.append(float(np.nanmedian(ratio)) - 1)
        scales.append(result.alignment.scale / scale)
        other = frames[index - 1 if index else 1]
        neighbour.append(_transfer_error(fitted, frame, other))
    return [
        at_least("alignments accepted", accepted, f"of {len(frames)}", len(frames)),
        at_most("alignment, bias on clean depth, median of |bias|",
                100 * float(np.median(np.abs(bias))), "%", 0.2),
        at_most("aligned depth against the neighbouring frame, median",
                100 * float(np.median(neighbour)), "%", 0.4,
                f"recorded depth itself: {100 * _recorded_transfer(frames):.2g} %"),
        at_most("drift of the scale, last ten against first ten",
                100 * abs(float(np.mean(scales[-10:]) / np.mean(scales[:10])) - 1), "%", 0.5),
    ]  # fmt: skip


def _recorded_transfer(frames: list[Recorded]) -> float:
    return float(np.median([_transfer_error(b.depth, b, a) for a, b in pairwise(frames)]))


def _transfer_error(depth: np.ndarray, frame: Recorded, other: Recorded) -> float:
    """Median relative difference of the depth moved into another frame and what is there."""
    points = frame.map_from_camera.apply(MODEL.unproject(depth).reshape(-1, 3))
    points = points[np.isfinite(points).all(axis=1)]
    found, z = _seen(points, other)
    errors = np.abs(z / found - 1)
    return float(np.median(errors[errors < 0.1]))


def _seen(points: np.ndarray, frame: Recorded) -> tuple[np.ndarray, np.ndarray]:
    """Recorded depth at the pixels of the points and depth of the points; NaN outside."""
    in_camera = frame.map_from_camera.inverse().apply(points)
    uv = MODEL.project(in_camera)
    uv = np.where(np.isfinite(uv), uv, -1e6)
    u, v = np.rint(uv).astype(np.int64).T
    inside = (u >= 0) & (v >= 0) & (u < MODEL.width) & (v < MODEL.height) & (in_camera[:, 2] > 0)
    found = np.full(len(points), np.nan)
    found[inside] = frame.depth[v[inside], u[inside]]
    return found, in_camera[:, 2]


def _in_front(points: np.ndarray, frames: list[Recorded]) -> float:
    """Share of the points that lie 5 cm before the recorded surface in most views of them."""
    views, before = np.zeros(len(points)), np.zeros(len(points))
    for frame in frames:
        found, z = _seen(points, frame)
        is_seen = np.isfinite(found) & (z < found + 0.05)
        views += is_seen
        before += is_seen & (z < found - 0.05)
    return float((before > 0.5 * np.maximum(views, 1)).mean())


def _points(frame: Recorded) -> np.ndarray:
    points = frame.map_from_camera.apply(MODEL.unproject(frame.depth).reshape(-1, 3))
    return np.asarray(points[np.isfinite(points).all(axis=1)])


def _depth_map(depth: np.ndarray, frame: Recorded, model: CameraModel = MODEL) -> DepthMap:
    return DepthMap(
        "front", 0, depth, np.isfinite(depth).astype(np.float32),
        np.full((*depth.shape, 3), 128, np.uint8), model, frame.map_from_camera,
        DepthAlignment("front", DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 0, True),
    )  # fmt: skip


def _orthonormal(rotation: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(rotation)
    return np.asarray(u @ vt)


if __name__ == "__main__":
    for figure in figures():
        note_ = f" ({figure.note})" if figure.note else ""
        mark = {True: "met", False: "MISSED", None: ""}[figure.met]
        print(f"{figure.name}{note_}: {figure.value:.4g} {figure.unit} {figure.goal} {mark}")
