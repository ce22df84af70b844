"""A pipeline with the surface of `MappingPipeline` and no computation, for tests of the nodes.

A rig that moves is where TF says, or 0.1 m farther along x with each set.

Run as a program it is the mapper with this pipeline in it. `VGGT_ROS_STUB` may hold words:
`fail` (every bootstrap fails), `slow` (each step takes half a second), `no_prepare` (configure
fails), `slow_prepare` (configure takes half a minute), `slow_close` (cleanup takes two seconds),
`broken` (each step fails with an error that is not ours), `broken_report` (so does the report
that the worker asks for after the third set), `broken_close` (so does cleanup).
"""

import enum
import os
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from vggt_ros.errors import AlignmentError, EngineError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.report import map_frame
from vggt_ros.types import (
    AlignedScene,
    DepthAlignment,
    DepthKind,
    DepthMap,
    PointCloud,
    ScaleEstimate,
    ScaleSource,
)


class State(str, enum.Enum):
    COLLECTING = "collecting"
    MAPPING = "mapping"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    stamp_ns: int
    bootstrapped: bool
    depth_maps: tuple
    map_from_rig: Rigid3 | None = None


class Timings:
    @contextmanager
    def measure(self, stage):
        yield

    def add(self, stage, milliseconds):
        pass

    def summary(self):
        return {"decode": {"p50_ms": 1.0, "p95_ms": 2.0}}


class Map:
    def __init__(self):
        self.size = 0

    @property
    def memory_bytes(self):
        return 100 * self.size


class StubPipeline:
    """Puts the cameras where the rig has them, 1 m apart without one; depth is 2 m."""

    def __init__(self, config):
        self.config = config
        self.words = os.environ.get("VGGT_ROS_STUB", "").split()
        self.map = Map()
        self.depth_estimator = SimpleNamespace(name="plane_sweep")
        self.engines = {}
        self.timings = Timings()
        self.dropped = Counter()
        self.rig = self.scene = None
        self.sets_received = self.sets_used = 0
        self.loops = 0
        self.reset()

    @property
    def keyframes(self):
        return len(self._path)

    def path(self):
        return list(self._path)

    @property
    def memory_bytes(self):
        return self.map.memory_bytes

    def finish(self):
        return None

    def close(self):
        if "slow_close" in self.words:
            time.sleep(2.0)
        if "broken_close" in self.words:
            raise RuntimeError("the stub was asked not to close")

    def prepare(self):
        if "no_prepare" in self.words:
            raise EngineError("the stub was asked not to prepare")
        if "slow_prepare" in self.words:
            time.sleep(30.0)

    def load_calibration(self):
        pass

    def save_calibration(self):
        pass

    def set_rig(self, rig):
        self.rig = rig

    def set_config(self, config):
        self.config = config

    def reset(self):
        self.scene, self.state, self.failure, self.map.size = None, State.COLLECTING, "", 0
        self.map_from_world, self._path = None, []

    def step(self, frame_set):
        if "slow" in self.words:
            time.sleep(0.5)
        if "broken" in self.words:
            raise KeyError("the stub was asked to break")
        if "broken_report" in self.words and self.sets_received == 3:
            del self.map
        self.sets_received += 1
        bootstrapped = self.scene is None
        if bootstrapped:
            self._bootstrap(frame_set)
        self.map.size += 50 * len(frame_set.frames)
        self.sets_used += 1
        maps = tuple(self._depth(frame) for frame in frame_set.frames)
        return Result(frame_set.stamp_ns, bootstrapped, maps, self._locate(frame_set))

    def _locate(self, frame_set):
        """Motion tf: where TF says, in a map that lies 1 m from the world."""
        place = None
        if self.config.motion == "tf":
            self.map_from_world = Rigid3(np.eye(3), [0.0, 1.0, 0.0])
            place = self.map_from_world @ frame_set.world_from_rig
        elif self.config.motion == "estimate":
            place = Rigid3(np.eye(3), [0.1 * len(self._path), 0.0, 1.0])
        if place is not None:
            self._path.append((frame_set.stamp_ns, place))
        return place

    def cloud(self, voxel_m=0.0, max_points=0):
        count = min(self.map.size, max_points or self.map.size)
        points = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
        colours = np.tile(np.uint8([10, 20, 30]), (count, 1))
        metric = self.scene is not None and self.scene.scale.is_metric
        frame = map_frame(self.config.frame.map, self.scene)
        return PointCloud(points, colours, None, np.ones(count, np.float32), frame, metric)

    def report(self):
        return {"sets": {"received": self.sets_received, "dropped": {}}}

    def _bootstrap(self, frame_set):
        if "fail" in self.words:
            self.state = State.FAILED
            self.failure = "1 of 2 cameras registered, expected 2"
            self.dropped["bootstrap failed"] += 1
            raise AlignmentError(self.failure)
        poses = self.rig.poses
        scale = ScaleSource.RIG if len(poses) > 1 else ScaleSource.NONE
        if any(frame.depth_m is not None for frame in frame_set.frames):
            scale = ScaleSource.DEPTH_CAMERA
        map_from_rig = Rigid3(np.eye(3), [0.0, 0.0, 1.0])
        cameras, placed = {}, {}
        for i, frame in enumerate(frame_set.frames):
            height, width = frame.rgb.shape[:2]
            cameras[frame.camera] = frame.model or CameraModel(
                width, height, width, width, (width - 1) / 2, (height - 1) / 2
            )
            rig_from_camera = poses.get(frame.camera, Rigid3(np.eye(3), [float(i), 0.0, 0.0]))
            placed[frame.camera] = map_from_rig @ rig_from_camera
        self.scene = AlignedScene(
            cameras,
            placed,
            np.zeros((0, 3)),
            np.zeros((0, 3), np.uint8),
            ScaleEstimate(1.0, np.inf if scale is ScaleSource.NONE else 0.01, scale),
            Sim3.identity(),
            {},
            "rig",
            (),
            self.config.bootstrap,
            map_from_rig if poses else None,
        )
        self.state = State.MAPPING

    def _depth(self, frame):
        model = self.scene.cameras[frame.camera]
        depth = np.full((model.height, model.width), 2.0, np.float32)
        depth[0] = np.nan
        alignment = DepthAlignment(
            frame.camera, DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.01, 500, True
        )
        pose = self.scene.map_from_camera[frame.camera]
        return DepthMap(
            frame.camera,
            frame.stamp_ns,
            depth,
            np.ones_like(depth),
            frame.rgb,
            model,
            pose,
            alignment,
        )


def main():
    from vggt_ros.nodes import process

    stop = process.catch_signals()
    from vggt_ros.nodes.mapper_node import Mapper

    sys.exit(process.run(lambda stop: Mapper(stop, StubPipeline), stop, threads=5))


if __name__ == "__main__":
    main()
