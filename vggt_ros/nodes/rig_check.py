"""`~/check_rig`, on request and in the background, beside mapping and not in its way."""

from __future__ import annotations

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
            self._begin(worker)

    @property
    def busy(self) -> bool:
        """Whether a check is running, whose native code cannot be interrupted."""
        return self._running is not None and not self._running.done()

    def forget(self) -> None:
        """After cleanup: what was found is of another rig."""
        self._last, self._last_error = None, ""

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

    def _write(self, request: CheckRig.Request, rig: Rig, check: Any) -> list[str]:
        from vggt_ros.export.files import checked_path
        from vggt_ros.pipeline.check_rig_files import write_rig_file, write_urdf

        config, files = self._get_config(), []
        if request.path:
            path = checked_path(request.path, config)
            files.append(str(write_rig_file(path, rig, check)))
        if request.urdf_path:
            path = checked_path(request.urdf_path, config)
            files.append(str(write_urdf(path, rig, check, self._mounts(rig))))
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
            if self._running is None or self._running.done():
                self._running = Future()
                threading.Thread(
                    target=self._run, args=(worker, self._running), name="rig check", daemon=True
                ).start()
            return self._running

    def _run(self, worker: MappingWorker, future: Future[Any]) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        before = self._last
        try:
            check, rig = self._check(worker)
        except Exception as error:  # handed to who waits; in the background it is logged
            if isinstance(error, VggtRosError):
                logger.warning("rig check: %s", error)
            else:
                logger.exception("internal error while checking the rig")
            self._last, self._last_error, self._last_s = None, str(error), time.monotonic()
            future.set_exception(error)
            return
        self._last, self._last_error, self._last_s = check, "", time.monotonic()
        if check.bumped and (before is None or before.bumped != check.bumped):
            logger.warning("rig check: %s", check.message)
        else:
            logger.info("rig check: %s", check.message)
        future.set_result((check, rig))

    def _check(self, worker: MappingWorker) -> tuple[Any, Rig]:
        from vggt_ros.pipeline.check_rig_images import check_rig_of_sets

        config = self._get_config()
        rig, frame_sets = worker.rig, worker.latest_sets
        if rig is None or not frame_sets:
            raise AlignmentError(
                "check_rig: expected a frame set and a calibrated rig, got none yet; activate the "
                "mapper and wait for images"
            )
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
