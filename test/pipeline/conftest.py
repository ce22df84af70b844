"""Scenes whose answers are known, for the stages that ask networks."""

from dataclasses import dataclass

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import Frame, FrameSet

UNIT_M = 0.37
"""Metres per unit of the answers."""


@dataclass(frozen=True)
class Taken:
    """Pictures of a box before a wall, by cameras side by side that turn inwards."""

    world: object
    rig: Rig
    map_from_camera: dict

    @property
    def models(self):
        return [camera.model for camera in self.rig.cameras]

    @property
    def poses(self):
        return [self.map_from_camera[name] for name in self.rig.names]

    def frame_set(self, stamp_ns=0, names=None, models=True):
        frames = []
        for camera in self.rig.cameras:
            if names is None or camera.name in names:
                rgb = self.images[camera.name]
                frames.append(Frame(camera.name, stamp_ns, rgb, camera.model if models else None))
        return FrameSet(stamp_ns, tuple(frames))

    def depth(self, name, model):
        return self.world.render(model, self.map_from_camera[name], supersample=1).depth


@pytest.fixture(scope="session")
def box_scene():
    from vggt_ros.synthetic.scenes import box_world

    world = box_world()
    cameras, poses, images = [], {}, {}
    for k, name in enumerate(("left", "middle", "right")):
        model = CameraModel(168, 126, 150.0, 150.0, 83.5, 62.5)
        turn = Rigid3.from_rotation_vector((0, -0.12 * (k - 1), 0), (0.3 * (k - 1), 0.02 * k, 0))
        cameras.append(
            RigCamera(
                name,
                image=f"/{name}/image_raw",
                camera_info=f"/{name}/camera_info",
                frame_id=f"{name}_optical",
                model=model,
                rig_from_camera=turn,
            )
        )
        poses[name] = turn
        images[name] = world.render(model, turn).rgb
    taken = Taken(world, Rig(tuple(cameras), "rig"), poses)
    object.__setattr__(taken, "images", images)
    return taken


@pytest.fixture(scope="session")
def vggt_fixture(box_scene, fake_engine):
    """An engine of VGGT that knows the box; change its answer as you like."""
    from vggt_ros.synthetic.answers import vggt_answer

    right = vggt_answer(box_scene.world, box_scene.models, box_scene.poses, 168, UNIT_M)

    def make(shape=None, **changed):
        answer = {
            "pose_enc": right.pose_enc[None],
            "depth": right.depth[None],
            "depth_conf": right.depth_conf[None],
        }
        answer |= {name: np.asarray(value, np.float32) for name, value in changed.items()}
        height, width = right.size
        return fake_engine("vggt", shape or (3, 3, height, width), answer)

    return make


@pytest.fixture
def use_engine(monkeypatch):
    """Let the stages open these engines, by the path that their parameters name."""

    def use(**engines):
        opened = []

        def open_engine(path, backend, options, verify):
            opened.append((str(path), backend, options, verify))
            return engines[str(path)]

        monkeypatch.setattr("vggt_ros.pipeline.engines.open_engine", open_engine)
        return opened

    return use
