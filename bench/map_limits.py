"""Limits of the surfel map on an exact synthetic hall: what moves, memory, growth."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from bench.figures import Figure, at_least, at_most
from bench.map_kernels import ROOM_HIGH, ROOM_LOW, _depth_map, _hall_depth, _level_camera
from vggt_ros.config import MapConfig
from vggt_ros.evaluation.nearest import NearestNeighbours
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.types import DepthMap

MODEL = CameraModel(160, 120, 110.0, 110.0, 79.5, 59.5)
RIG = [_level_camera(0.25 * (k - 1.5), (0.4 * (k - 1.5), -2.0, 1.4)) for k in range(4)]
NOISE = 0.01

Box = tuple[np.ndarray, np.ndarray]


def figures() -> list[Figure]:
    return [*moving_object(), *person(), *memory(), *growth()]


def moving_object() -> list[Figure]:
    """A box that stands for 60 sets and then is gone."""
    surfel_map = SurfelMap(MapConfig())
    thing = _box(0.0, 1.0)
    _fuse(surfel_map, [None] * 20, 0)  # fewer leave noise that is not static
    static = _on_walls(surfel_map)
    _fuse(surfel_map, [thing] * 60, 1000)
    before = _off_walls(surfel_map)
    _fuse(surfel_map, [None] * 10, 2000)
    gone = 100 * (1 - _off_walls(surfel_map) / before)
    distance = NearestNeighbours(_on_walls(surfel_map)).query(static)[0]
    lost = 100 * float((distance > 0.05).mean())
    note = f"{before} points of a box after 60 sets, 10 sets after it left"
    return [
        at_least("points of what moved away that are gone", gone, "%", 95, note),
        at_most("static points without one within 5 cm afterwards", lost, "%", 1),
    ]


def person() -> list[Figure]:
    """A box of a person's size that walks through for 60 sets."""
    surfel_map = SurfelMap(MapConfig())
    _fuse(surfel_map, [None] * 3, 0)
    _fuse(surfel_map, [_box(x, 1.0, 0.5) for x in np.linspace(-4.5, 4.5, 60)], 1000)
    points = len(surfel_map.cloud(min_hits=2))
    residue = 100 * _off_walls(surfel_map) / points
    return [at_most("residue of a person who walked through in 60 sets", residue, "%", 0.5)]


def memory() -> list[Figure]:
    """Largest memory over its budget while moving through more than ten times the space."""
    config = MapConfig(budget_mb=8.0)
    surfel_map = SurfelMap(config)
    room = _set(None, 0)
    most = 0.0
    surfel_map.fuse(room, bootstrap=True)
    kept = len(surfel_map.cloud())
    added = 0
    for k in range(1, 80):
        shift = np.array([10.0 * k, 0.0, 0.0])
        moved = [
            replace(d, map_from_camera=Rigid3(d.map_from_camera.rotation,
                                              d.map_from_camera.translation + shift))
            for d in room
        ]  # fmt: skip
        added += surfel_map.fuse(moved).added
        most = max(most, surfel_map.memory_bytes / (1e6 * config.budget_mb))
    still = int((surfel_map.cloud().points[:, 0] < 5).sum())
    note = f"through {added / surfel_map.capacity:.0f} times the space that it holds"
    return [
        at_most("most memory over the budget", 100 * most, "%", 105, note),
        at_least("points of the bootstrap that are still there", 100 * still / kept, "%", 100),
    ]


def growth() -> list[Figure]:
    """Time of a set in a map and in one ten times as large, alternately."""
    maps = []
    for halls in (1, 10):
        surfel_map = SurfelMap(MapConfig(voxel_m=0.025))
        for hall in range(halls - 1, -1, -1):
            for k in range(8):
                pose = _level_camera(0.25 * np.pi * k, (0.0, 0.0, 1.4))
                depth = _hall_depth(MODEL.resized(320, 240), pose, 1.0)
                pose = Rigid3(pose.rotation, pose.translation + [20.0 * hall, 0.0, 0.0])
                surfel_map.fuse([_depth_map(depth, MODEL.resized(320, 240), pose)])
        maps.append(surfel_map)
    sizes = [m.size for m in maps]
    spent: list[list[float]] = [[], []]
    for k in range(30):
        depth_maps = _set(None, k)
        for surfel_map, times in zip(maps, spent, strict=True):
            start = time.process_time()
            for pose in RIG:
                surfel_map.render(MODEL, pose)
            surfel_map.fuse(depth_maps)
            times.append(time.process_time() - start)
    small, large = (1e3 * float(np.median(times[3:])) for times in spent)
    note = f"{sizes[0]} and {sizes[1]} surfels, {small:.1f} and {large:.1f} CPU-ms"
    return [at_most("time of a set in a map ten times as large", large / small, "x", 1.2, note)]


def _box(x: float, y: float, width: float = 0.8) -> Box:
    return np.array([x - width / 2, y - 0.25, 0.0]), np.array([x + width / 2, y + 0.25, 1.8])


def _set(box: Box | None, seed: int) -> list[DepthMap]:
    rng = np.random.default_rng(seed)
    maps = []
    for pose in RIG:
        depth = _hall_depth(MODEL, pose, 1.0)
        if box is not None:
            rays = MODEL.rays().astype(np.float64) @ pose.rotation.T
            with np.errstate(divide="ignore"):
                a, b = ((corner - pose.translation) / rays for corner in box)
            enter, leave = np.minimum(a, b).max(axis=2), np.maximum(a, b).min(axis=2)
            depth = np.where((enter < leave) & (enter > 0) & (enter < depth), enter, depth)
        depth = depth * (1 + NOISE * rng.normal(size=depth.shape))
        maps.append(_depth_map(depth, MODEL, pose))
    return maps


def _fuse(surfel_map: SurfelMap, boxes: list[Box | None], seed: int) -> None:
    for k, box in enumerate(boxes):
        surfel_map.fuse(_set(box, seed + k))


def _wall_distance(surfel_map: SurfelMap) -> np.ndarray:
    points = surfel_map.cloud(min_hits=2).points
    return np.asarray(np.minimum(np.abs(points - ROOM_LOW), np.abs(points - ROOM_HIGH)).min(1))


def _off_walls(surfel_map: SurfelMap) -> int:
    """Points that can only be of what moves."""
    return int((_wall_distance(surfel_map) > 0.15).sum())


def _on_walls(surfel_map: SurfelMap) -> np.ndarray:
    """Points of what does not move."""
    return np.asarray(surfel_map.cloud(min_hits=2).points[_wall_distance(surfel_map) < 0.1])


if __name__ == "__main__":
    for figure in figures():
        note_ = f" ({figure.note})" if figure.note else ""
        mark = {True: "met", False: "MISSED", None: ""}[figure.met]
        print(f"{figure.name}{note_}: {figure.value:.4g} {figure.unit} {figure.goal} {mark}")
