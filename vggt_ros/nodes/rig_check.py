"""`~/check_rig`, on request and in the background, beside mapping and not in its way."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError, VggtRosError
from vggt_ros.geometry import Rigid3
from vggt_ros.msg import RigResidual
from vggt_ros.nodes import finding_texts
from vggt_ros.nodes.conversions import pose_message
from vggt_ros.nodes.diagnostics import LEVELS
from vggt_ros.nodes.transforms import Frames
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.rig import Rig
from vggt_ros.srv import CheckRig
from vggt_ros.types import FrameSet

logger = logging.getLogger(__name__)

TIMEOUT_S = 120.0
"""Structure from motion of the newest set takes seconds; beside a busy mapper it takes longer."""

_NICE = 15
"""Of the thread that checks, and of those it starts: mapping goes first (Linux has a priority per
thread). Measured in `bench/scale.py`."""


class RigChecker:
    """The service, the timer and the last result.

    Args:
        node: the mapper.
        worker: gives the worker, None while unconfigured.
        config: gives the configuration with all topics.
        frames: gives the tf tree, None while unconfigured.
    """

    def __init__(
        self,
        node: Node,
        worker: Callable[[], MappingWorker | None],
        config: Callable[[], Config],
        frames: Callable[[], Frames | None],
    ) -> None:
        self._node = node
        self._get_worker = worker
        self._get_config = config
        self._get_frames = frames
        self._lock = threading.Lock()
        self._running: Future[Any] | None = None
        self._running_of: tuple[int, MappingWorker] | None = None
        self._generation = 0
        self._checked_ns: int | None = None
        self._last: Any = None
        self._last_error = ""
        self._last_s = 0.0
        self._next_s = math.inf
        self._group = MutuallyExclusiveCallbackGroup()
        node.create_service(CheckRig, "~/check_rig", self._answer, callback_group=self._group)

    def poll(self) -> None:
        """Begin a check in the background when `check_rig.period_s` is over; never waits."""
        period_s = self._get_config().check_rig.period_s
        worker = self._get_worker()
        if not period_s or worker is None or worker.pipeline.scene is None:
            self._next_s = math.inf
            return
        now = time.monotonic()
        if self._next_s == math.inf:
            self._next_s = now + period_s
        elif now >= self._next_s:
            self._next_s = now + period_s
            sets = worker.latest_sets
            if sets and sets[-1].stamp_ns != self._checked_ns and not self.busy:
                with contextlib.suppress(VggtRosError):  # the service was a moment faster
                    self._begin(worker)

    @property
    def busy(self) -> bool:
        """Whether a check is running, whose native code cannot be interrupted."""
        return self._running is not None and not self._running.done()

    def forget(self) -> None:
        """After cleanup, or when the map begins anew: what was found is of before."""
        with self._lock:
            self._generation += 1  # a check in hand is dropped when it ends
            self._last, self._last_error, self._checked_ns = None, "", None

    def diagnostic(self) -> DiagnosticStatus | None:
        """Of `/diagnostics`; None before the first check."""
        check, error = self._last, self._last_error
        if check is None and not error:
            return None
        name = self._node.get_fully_qualified_name().lstrip("/")
        status = DiagnosticStatus(name=f"{name}: rig check", hardware_id=name)
        status.values = [
            KeyValue(key="age [s]", value=f"{time.monotonic() - self._last_s:.0f}"),
        ]
        if error:
            status.level, status.message = DiagnosticStatus.WARN, error
            return status
        status.level = LEVELS[finding_texts.RIG[check.level.name].level]
        status.message = check.message
        status.values += [
            KeyValue(key=c.name, value=f"{c.level.name}: {c.detail}") for c in check.cameras
        ]
        return status

    # --- the service -----------------------------------------------------------------------------

    def _answer(self, request: CheckRig.Request, response: CheckRig.Response) -> CheckRig.Response:
        response.level = RigResidual.LEVEL_UNKNOWN
        worker = self._get_worker()
        if worker is None:
            response.message = (
                f"{self._node.get_name()} is unconfigured: configure and activate it first"
            )
            return response
        try:
            self._check_paths(request)
            check, rig = self._begin(worker).result(TIMEOUT_S)
            response.cameras = [_residual_message(camera) for camera in check.cameras]
            response.level = int(check.level)
            response.files = self._write(request, rig, check)
        except FutureTimeoutError:
            response.message = f"the check takes longer than {TIMEOUT_S:.0f} s; see /diagnostics"
            return response
        except VggtRosError as error:
            response.message = str(error)
            return response
        except Exception as error:
            logger.exception("internal error while checking the rig")
            response.message = f"internal error: {error}"
            return response
        response.success = True
        written = f"; written: {', '.join(response.files)}" if response.files else ""
        response.message = f"{check.message}{written}"
        return response

    def _check_paths(self, request: CheckRig.Request) -> None:
        """Before the check, which takes long."""
        from vggt_ros.export.files import checked_path

        for path in (request.path, request.urdf_path):
            if path:
                checked_path(path, self._get_config())

    def _write(self, request: CheckRig.Request, rig: Rig, check: Any) -> list[str]:
        from vggt_ros.export.files import checked_path
        from vggt_ros.pipeline.check_rig_files import write_rig_file, write_urdf

        config, files = self._get_config(), []
        mounts = self._mounts(rig)
        prefix = config.frame.prefix  # whoever reads the files puts it before the names again
        rig = _without_prefix(rig, prefix)
        if request.path:
            path = checked_path(request.path, config)
            files.append(str(write_rig_file(path, rig, check)))
        if request.urdf_path:
            path = checked_path(request.urdf_path, config)
            bare = {name: (f.removeprefix(prefix), pose) for name, (f, pose) in mounts.items()}
            files.append(str(write_urdf(path, rig, check, bare)))
        return files

    def _mounts(self, rig: Rig) -> dict[str, tuple[str, Rigid3]]:
        """The frames through which tf hangs the cameras on the rig frame."""
        frames = self._get_frames()
        found = {}
        for camera in rig.cameras if frames is not None else ():
            assert frames is not None  # for the type checker
            child = frames.top(camera.frame_id, rig.rig_frame)
            camera_from_child = frames.lookup(camera.frame_id, child)
            if frames.parent(child) == rig.rig_frame and camera_from_child is not None:
                found[camera.name] = (child, camera_from_child)
        return found

    # --- the thread ------------------------------------------------------------------------------

    def _begin(self, worker: MappingWorker) -> Future[Any]:
        """The check in hand, or a new one."""
        with self._lock:
            asked = self._generation, worker
            if self._running is None or self._running.done():
                self._running, self._running_of = Future(), asked
                threading.Thread(
                    target=self._run, args=(*asked, self._running), name="rig check", daemon=True
                ).start()
            elif self._running_of != asked:
                raise VggtRosError(
                    "check_rig: a check of what was mapped before is still running; try again"
                )
            return self._running

    def _run(self, generation: int, worker: MappingWorker, future: Future[Any]) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        before = self._last
        try:
            check, rig = self._check(worker)
        except Exception as error:  # handed to who waits; in the background it is logged
            if isinstance(error, VggtRosError):
                logger.warning("rig check: %s", error)
            else:
                logger.exception("internal error while checking the rig")
            self._keep(generation, worker, None, str(error))
            future.set_exception(error)
            return
        self._keep(generation, worker, check, "")
        if check.bumped and (before is None or before.bumped != check.bumped):
            logger.warning("rig check: %s", check.message)
        else:
            logger.info("rig check: %s", check.message)
        future.set_result((check, rig))

    def _keep(self, generation: int, worker: MappingWorker, check: Any, error: str) -> None:
        """Show a result, unless the worker or its map is another one now."""
        with self._lock:
            if generation == self._generation and worker is self._get_worker():
                self._last, self._last_error, self._last_s = check, error, time.monotonic()

    def _check(self, worker: MappingWorker) -> tuple[Any, Rig]:
        from vggt_ros.pipeline.check_rig_images import check_rig_of_sets

        config = self._get_config()
        rig, frame_sets = worker.rig, worker.latest_sets
        if rig is None or not frame_sets:
            raise AlignmentError(
                "check_rig: expected a frame set and a calibrated rig, got none yet; activate the "
                "mapper and wait for images"
            )
        self._checked_ns = frame_sets[-1].stamp_ns
        scene = worker.pipeline.scene
        models = dict(scene.cameras) if scene is not None else {}
        sets: list[FrameSet] = frame_sets[-config.check_rig.sets :]
        check = check_rig_of_sets(sets, rig, models, config)
        return check, _with_topics(rig, config)


def _with_topics(rig: Rig, config: Config) -> Rig:
    """The rig as a file that the mapper can be started with: with its topics."""
    return dataclasses.replace(
        rig,
        cameras=tuple(
            dataclasses.replace(
                camera,
                image=config.camera[camera.name].image_topic,
                camera_info=config.camera[camera.name].info_topic,
            )
            for camera in rig.cameras
        ),
    )


def _without_prefix(rig: Rig, prefix: str) -> Rig:
    """The rig with the frames' names as files have them: without `frame.prefix`."""
    cameras = tuple(
        dataclasses.replace(camera, frame_id=camera.frame_id.removeprefix(prefix))
        for camera in rig.cameras
    )
    return dataclasses.replace(rig, cameras=cameras, rig_frame=rig.rig_frame.removeprefix(prefix))


def _residual_message(camera: Any) -> RigResidual:
    pose = camera.rig_from_camera
    return RigResidual(
        name=camera.name,
        level=int(camera.level),
        centre_residual_m=camera.centre_m,
        centre_sigma_m=camera.centre_sigma_m,
        rotation_residual_rad=camera.rotation_rad,
        rotation_sigma_rad=camera.rotation_sigma_rad,
        rig_from_camera=pose_message(pose) if pose is not None else Pose(),
        detail=camera.detail,
    )
