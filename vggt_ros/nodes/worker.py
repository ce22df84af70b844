"""The threads around the pipeline: one that maps, one that publishes.

The algorithm has no threads. Callbacks of ROS only put images into the queues of ingest; one
worker thread takes sets out, decodes and maps them; what it makes goes into slots that keep the
latest only, from which a second thread publishes.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vggt_ros.errors import (
    AlignmentError,
    CalibrationError,
    ConfigError,
    EngineError,
    VggtRosError,
)
from vggt_ros.nodes.calibration import Calibrated, Calibration
from vggt_ros.pipeline.ingest import ImageSet, Ingest
from vggt_ros.pipeline.stages import EngineInUse
from vggt_ros.rig import Rig
from vggt_ros.types import AlignedScene, DepthAlignment, FrameSet, StampedImage

logger = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_S = 0.1
"""Longest sleep of a thread that has nothing to do."""

_REPEAT_WARNING_S = 5.0
"""A fault that repeats is logged this often; all of them are counted."""


@dataclass(frozen=True, eq=False)
class Health:
    """What the worker last knew, replaced as a whole; read by other threads."""

    stamp_ns: int = 0
    state: str = "collecting"
    detail: str = ""
    scene: AlignedScene | None = None
    bootstrapper: str = ""
    depth_estimator: str = ""
    engines: Mapping[str, EngineInUse] = field(default_factory=dict)
    map_points: int = 0
    memory_bytes: int = 0
    sets_received: int = 0
    sets_used: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    camera_drops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    camera_errors: Mapping[str, str] = field(default_factory=dict)
    alignments: Mapping[str, DepthAlignment] = field(default_factory=dict)
    timings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scale_drift: float = math.nan


class MappingWorker:
    """One thread that decodes and maps; it owns the pipeline.

    Args:
        pipeline: a `MappingPipeline`, prepared.
        ingest: its queues are the inbox.
        calibration: decides when enough of the rig is known.
        on_scene: called in the worker thread after a bootstrap, with the first set mapped.
        on_step: called in the worker thread after a set that was mapped, with whether the map
            is metric.
        on_cleared: called in the worker thread when the map was reset.
    """

    def __init__(
        self,
        pipeline: Any,
        ingest: Ingest,
        calibration: Calibration,
        on_scene: Callable[[AlignedScene, Calibrated, int], None],
        on_step: Callable[[Any, bool], None],
        on_cleared: Callable[[], None],
    ) -> None:
        self.pipeline = pipeline
        self.health = Health()
        self._ingest = ingest
        self._calibration = calibration
        self._calibrated: Calibrated | None = None
        self._on_scene = on_scene
        self._on_step = on_step
        self._on_cleared = on_cleared
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._arrived = False
        self._stopping = False
        self._paused = False
        self._dropped: Counter[str] = Counter()
        self._alignments: dict[str, DepthAlignment] = {}
        self._told: AlignedScene | None = None
        self._clock_resets = 0
        self._detail = ""
        self._stamp_ns = 0
        self._warned: dict[str, float] = {}
        check_rig = getattr(pipeline.config, "check_rig", None)
        self._latest: deque[FrameSet] = deque(maxlen=check_rig.sets if check_rig else 1)
        self._thread = threading.Thread(target=self._run, name="mapping", daemon=True)

    @property
    def latest_sets(self) -> list[FrameSet]:
        """The newest sets, the oldest first, as many as `check_rig.sets`."""
        return list(self._latest)

    @property
    def rig(self) -> Rig | None:
        """What the pipeline knows of the rig; None while it is waited for."""
        return self._calibrated.rig if self._calibrated is not None else None

    def start(self) -> None:
        """Start the thread."""
        self._report()
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after the step in hand; False where it is still busy."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        for _, future in self._tasks:
            future.cancel()
        if self._thread.is_alive():
            return False
        self._ingest.close()
        return True

    def offer(self, image: StampedImage) -> None:
        """Queue an image; never waits."""
        if self._stopping:
            return
        if self._paused:
            self._dropped["paused"] += 1
            return
        self._ingest.put(image)
        with self._wake:
            self._arrived = True
            self._wake.notify()

    def offer_depth(self, image: StampedImage) -> None:
        """Queue the depth image of a camera; never waits."""
        if self._stopping or self._paused:
            return
        self._ingest.put_depth(image)
        with self._wake:
            self._arrived = True
            self._wake.notify()

    def drop(self, reason: str, text: str = "") -> None:
        """Count an image or set that did not even get into a queue, and say why."""
        self._dropped[reason] += 1
        if text:
            self._warn(reason, text)

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Run a function in the worker thread, between two steps, and return its result.

        Raises:
            TimeoutError: the step in hand takes longer than `timeout_s`.
        """
        future: Future[T] = Future()
        with self._wake:
            self._tasks.append((function, future))
            self._wake.notify()
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:  # another class than TimeoutError before Python 3.11
            future.cancel()
            raise TimeoutError(f"no answer within {timeout_s} s") from error

    def post(self, function: Callable[[], Any]) -> None:
        """Run a function in the worker thread, between two steps, without waiting for it.

        Nobody waits for its errors either: they are logged.
        """

        def logged() -> None:
            try:
                function()
            except VggtRosError as error:
                self._warn("task", str(error))

        with self._wake:
            self._tasks.append((logged, Future()))
            self._wake.notify()

    @property
    def paused(self) -> bool:
        """Whether images are dropped on purpose."""
        return self._paused

    def pause(self, paused: bool) -> None:
        """While paused, images are dropped and counted."""
        self._paused = paused
        if paused:
            self._ingest.reset()

    def flush(self) -> None:
        """Forget the images that wait, and their stamps."""
        self._ingest.reset()

    def reset(self) -> None:
        """Forget scene, map and half sets; accepted at once, done after the step in hand."""
        self._ingest.reset()
        self.post(self._reset)

    # --- in the worker thread ---------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                if not (self._stopping or self._tasks or self._arrived):
                    self._wake.wait(_IDLE_S)
                if self._stopping:
                    return
                tasks = list(self._tasks)
                self._tasks.clear()
                self._arrived = False
            for function, future in tasks:
                self._run_task(function, future)
            try:
                self._take_all()
            except VggtRosError as error:
                # A fault of one image or set: it is left out, counted and shown.
                self._detail = str(error)
                self.drop(type(error).__name__, str(error))
            except Exception:
                # A fault of ours must not end the thread unseen: mapping would just stop.
                self._detail = "internal error, see the log"
                self.drop("internal error")
                logger.exception("internal error while mapping a set; it is left out")
            self._report()

    @staticmethod
    def _run_task(function: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:  # handed to the caller of `call`; `post` has none
            if not isinstance(error, VggtRosError):
                logger.exception("internal error in a task of the mapping thread")
            future.set_exception(error)

    def _take_all(self) -> None:
        """Map the sets that are ready, until something else is to be done."""
        if self._paused or (self.pipeline.scene is None and not self._calibrate()):
            return
        if self._ingest.clock_resets != self._clock_resets:
            self._clock_resets = self._ingest.clock_resets
            logger.warning("stamps jumped back: scene and map are reset")
            self._reset()
        while not (self._stopping or self._tasks):
            chosen = self._ingest.take()
            if chosen is None:
                return
            self._map(chosen)
            self._report()

    def _map(self, chosen: ImageSet) -> None:
        with self.pipeline.timings.measure("decode"):
            frame_set = self._ingest.decode_set(chosen)
        if frame_set is None:
            return
        self._latest.append(frame_set)
        try:
            result = self.pipeline.step(frame_set)
        except (AlignmentError, EngineError, ConfigError) as error:
            if self.pipeline.scene is not None:
                raise
            # Counted by the pipeline, which tries again after sfm.retry_period_s.
            self._detail = str(error)
            self._warn("bootstrap", f"bootstrap failed: {error}")
            return
        scene = self.pipeline.scene
        if scene is None or self._calibrated is None:
            return
        self._detail = ""
        self._stamp_ns = result.stamp_ns
        if scene is not self._told:  # also where the set that found it could not be mapped
            self._on_scene(scene, self._calibrated, result.stamp_ns)
            self._told = scene
        self._alignments.update({d.camera: d.alignment for d in result.depth_maps})
        self._on_step(result, scene.scale.is_metric)

    def _calibrate(self) -> bool:
        """Hand over what is known of the rig; until the bootstrap it may still become more."""
        try:
            found = self._calibration.resolve(time.monotonic())
        except CalibrationError as error:
            self._detail = str(error)
            self._warn("calibration", str(error))
            return False
        if isinstance(found, str):
            self._detail = found
            return False
        if self._calibrated is None or found.key != self._calibrated.key:
            if self._calibrated is None or found.missing != self._calibrated.missing:
                for text in found.missing:
                    logger.warning("calibration: %s", text)
            for camera in found.rig.cameras:
                self._ingest.set_model(camera.name, camera.model)
            self.pipeline.set_rig(found.rig)
            self._calibrated = found
            self._detail = ""
        return True

    def _reset(self) -> None:
        self.pipeline.reset()
        self._told = None
        self._latest.clear()
        self._alignments.clear()
        self._detail = ""
        self._on_cleared()

    def report(self) -> dict[str, Any]:
        """The content of `report.json`; call it in the worker thread (`call`)."""
        report: dict[str, Any] = self.pipeline.report()
        report["sets"]["dropped"] = dict(sorted(self._all_dropped().items()))
        return report

    def _all_dropped(self) -> Counter[str]:
        # Copies, which are made at once: callbacks count in their own threads meanwhile, and a
        # sum iterates.
        return Counter(self._dropped) + Counter(self._ingest.counts) + self.pipeline.dropped

    def _report(self) -> None:
        pipeline, ingest = self.pipeline, self._ingest
        scene = pipeline.scene
        self.health = Health(
            stamp_ns=self._stamp_ns,
            state=pipeline.state.value,
            detail=self._detail or pipeline.failure,
            scene=scene,
            bootstrapper=scene.bootstrapper if scene else pipeline.config.bootstrap,
            depth_estimator=pipeline.depth_estimator.name,
            engines=pipeline.engines,
            map_points=pipeline.map.size,
            memory_bytes=pipeline.map.memory_bytes,
            sets_received=ingest.sets,
            sets_used=pipeline.sets_used,
            dropped=dict(self._all_dropped()),
            camera_drops={name: dict(c) for name, c in ingest.camera_counts.items()},
            camera_errors=self._calibration.errors,
            alignments=dict(self._alignments),
            timings=pipeline.timings.summary(),
            scale_drift=getattr(pipeline, "scale_drift", math.nan),
        )

    def _warn(self, reason: str, text: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(reason, -_REPEAT_WARNING_S) >= _REPEAT_WARNING_S:
            self._warned[reason] = now
            logger.warning("%s", text)


class LatestPublisher:
    """A thread that publishes what was put last; older unpublished values are replaced.

    Args:
        handlers: by slot, what publishes a value; called in this thread, in this order.
    """

    def __init__(self, handlers: dict[str, Callable[[Any], None]]) -> None:
        self._handlers = handlers
        self._slots: dict[str, Any] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="publishing", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, slot: str, value: Any) -> None:
        """Never waits for the publishing."""
        with self._wake:
            self._slots[slot] = value
            self._wake.notify()

    def stop(self, timeout_s: float) -> bool:
        """End after the message in hand; what still waits is not published."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not (self._stopping or self._slots):
                    self._wake.wait(_IDLE_S)
                if self._stopping:
                    return
                slots, self._slots = self._slots, {}
            for slot, handler in self._handlers.items():
                if slot in slots and not self._stopping:
                    try:
                        handler(slots[slot])
                    except Exception:
                        logger.exception("internal error while publishing %s", slot)
