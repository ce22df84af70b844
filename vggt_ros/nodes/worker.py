"""The thread that maps.

The algorithm has no threads. Callbacks of ROS only put images into the queues of ingest; one
worker thread takes sets out, decodes and maps them; what it makes goes into slots that keep the
latest only, from which a second thread publishes (`latest_publisher.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from vggt_ros.config import Config
from vggt_ros.errors import (
    AlignmentError,
    CalibrationError,
    ConfigError,
    EngineError,
    VggtRosError,
)
from vggt_ros.geometry import Rigid3
from vggt_ros.nodes.calibration import Calibrated, Calibration
from vggt_ros.nodes.health import Health
from vggt_ros.nodes.motion import Motion, PlacesTold, RigInTf, world_frame
from vggt_ros.nodes.tasks import Tasks
from vggt_ros.pipeline.ingest import ImageSet, Ingest
from vggt_ros.pipeline.rig_overlap import rig_overlap
from vggt_ros.pipeline.waiting_sets import WaitingSets
from vggt_ros.rig import Rig
from vggt_ros.types import AlignedScene, DepthAlignment, FrameSet, StampedImage

if TYPE_CHECKING:  # it brings the kernels of the map along
    from vggt_ros.pipeline.archive import SavedMap

logger = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_S = 0.1
"""Longest sleep of a thread that has nothing to do."""

_TF_POLL_S = 0.01
"""Sleep while a set waits for a transform: tf2 tells nobody when one has come."""
_ARRIVALS = 1000
"""Images whose time of arrival is kept, for the latency: what 64 full queues hold."""

_REPEAT_WARNING_S = 5.0
"""A fault that repeats is logged this often; all of them are counted."""


class MappingWorker:
    """One thread that decodes and maps; it owns the pipeline.

    Args:
        pipeline: a `MappingPipeline`, prepared.
        ingest: its queues are the inbox.
        calibration: decides when enough of the rig is known.
        on_scene: called in the worker thread after a bootstrap, with the first set mapped.
        on_step: called in the worker thread after a set that was mapped, with whether the map
            is metric, and where the rig was if it moves.
        on_cleared: called in the worker thread when the map was reset.
        tf: of a rig that TF moves; None: no set needs a place.
        max_internal_errors: sets in a row that may fail for a fault of ours; one more ends the
            thread.
        on_failure: called in the worker thread when it ends by itself; `failure` says why.
    """

    def __init__(
        self,
        pipeline: Any,
        ingest: Ingest,
        calibration: Calibration,
        on_scene: Callable[[AlignedScene, Calibrated, int], None],
        on_step: Callable[[Any, bool, Motion | None], None],
        on_cleared: Callable[[], None],
        tf: RigInTf | None = None,
        max_internal_errors: int = 3,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.pipeline = pipeline
        self.failure = ""
        """Why the thread has ended by itself; empty: it has not."""
        self.max_internal_errors = max_internal_errors
        self._on_failure = on_failure
        self._health = Health()
        self._internal_errors = 0
        self._errors_in_a_row = 0
        self._step_since_s: float | None = None
        self._arrived_s: dict[tuple[str, int], float] = {}
        self._clock_jumps = 0
        self._overlap = math.nan
        self._ingest = ingest
        self._calibration = calibration
        self._calibrated: Calibrated | None = None
        self._on_scene = on_scene
        self._on_step = on_step
        self._on_cleared = on_cleared
        self._wake = threading.Condition()
        self._tasks = Tasks(self._wake, lambda text: self._warn("task", text))
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
        self._tf = tf
        self._waiting: WaitingSets | None = None
        if tf is not None:
            settings = pipeline.config
            self._waiting = WaitingSets(
                world_frame(settings), settings.frame.tf_wait_ms, tf.lookup, self.drop
            )
        self._placed_at_s = time.monotonic()
        self._places = PlacesTold()
        self._set_wanted: list[Future[FrameSet]] = []
        check_rig = getattr(pipeline.config, "check_rig", None)
        self._latest: deque[FrameSet] = deque(maxlen=check_rig.sets if check_rig else 1)
        self._thread = threading.Thread(target=self._run, name="mapping", daemon=True)

    @property
    def health(self) -> Health:
        """What the worker last knew."""
        since = self._step_since_s
        if since is None:
            return self._health
        return dataclasses.replace(self._health, step_s=time.monotonic() - since)

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
        self._tasks.cancel()
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
        self._arrived_s[image.camera, image.stamp_ns] = time.monotonic()
        while len(self._arrived_s) > _ARRIVALS:
            self._arrived_s.pop(next(iter(self._arrived_s)), None)
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
            VggtRosError: the thread has ended by itself.
        """
        return self._tasks.call(function, timeout_s)

    def post(self, function: Callable[[], Any]) -> None:
        """Run a function in the worker thread, between two steps, without waiting for it.

        Nobody waits for its errors either: they are logged.
        """
        self._tasks.post(function)

    @property
    def paused(self) -> bool:
        """Whether images are dropped on purpose."""
        return self._paused

    def pause(self, paused: bool) -> int:
        """While paused, images are dropped and counted; returns how many waited and went."""
        self._paused = paused
        if not paused:
            self.post(self._restart_places)
            return 0
        waiting = self._ingest.waiting + len(self._waiting or ())
        self._forget("paused")
        return waiting

    def flush(self) -> None:
        """Forget the images and sets that wait, and their stamps."""
        self._forget("inactive")

    def _forget(self, reason: str) -> None:
        self._ingest.reset(reason)
        self.post(lambda: self._forget_sets(reason))

    def _forget_sets(self, reason: str) -> None:
        """In the worker thread: neither sets that wait nor those that were seen are of now."""
        if self._waiting is not None:
            self._waiting.clear(reason)
        self._restart_places()
        self._latest.clear()

    def _restart_places(self) -> None:
        """How long no set has had a place is counted from now on."""
        self._placed_at_s = time.monotonic()

    def reset(self) -> None:
        """Forget scene, map and half sets; accepted at once, done after the step in hand."""
        self._ingest.reset()
        self.post(self._reset)

    def set_config(self, config: Config) -> None:
        """Take over the parameters that may change while mapping."""
        self._ingest.set_config(config.ingest)
        self.post(lambda: self.pipeline.set_config(config))

    def clock_jumped(self) -> None:
        """The clock of the node went back: count it, and reset."""
        self._clock_jumps += 1
        self._ingest.reset("clock_jump")
        self.post(lambda: self._reset("clock_jump"))

    def next_set(self, timeout_s: float) -> FrameSet:
        """The next set of images, decoded; it is mapped all the same.

        Raises:
            TimeoutError: none came.
        """
        future: Future[FrameSet] = Future()
        self._set_wanted.append(future)
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:  # another class than TimeoutError before Python 3.11
            future.cancel()
            raise TimeoutError(f"no set within {timeout_s} s") from error

    # --- in the worker thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            # The node must hear of it: a thread that ended unseen is a map that stands still.
            logger.exception("the mapping thread ends: %s", _named(error))
            self.failure = _named(error)
            self._tasks.end(f"the mapping thread has ended: {self.failure}")
            self._on_failure()

    def _loop(self) -> None:
        while True:
            with self._wake:
                if not (self._stopping or self._tasks or self._arrived):
                    self._wake.wait(_TF_POLL_S if self._waiting else _IDLE_S)
                if self._stopping:
                    return
                tasks = self._tasks.take()
                self._arrived = False
            self._tasks.run(tasks)
            try:
                self._take_all()
            except VggtRosError as error:
                # A fault of one image or set: it is left out, counted and shown.
                self._detail = str(error)
                self.drop(type(error).__name__, str(error))
            except Exception as error:
                # A fault of ours: of one set perhaps, but not of many in a row.
                self._internal_errors += 1
                self._errors_in_a_row += 1
                self.drop("internal error")
                if self._errors_in_a_row > self.max_internal_errors:
                    raise
                self._detail = f"internal error, see the log: {_named(error)}"
                logger.exception("internal error while mapping a set; it is left out")
            finally:
                self._step_since_s = None
            self._report()

    def _take_all(self) -> None:
        """Map the sets that are ready, until something else is to be done."""
        is_settled = self.pipeline.scene is not None and self._calibrated is not None
        if self._paused or not (is_settled or self._calibrate()):
            return
        self._follow_clock(self._ingest.clock_resets)
        while not (self._stopping or self._tasks):
            if self._waiting is None or self._tf is None:
                chosen, world_from_rig = self._ingest.take(), None
            else:
                chosen, world_from_rig = self._take_placed(self._waiting, self._tf.now_ns())
            if chosen is None:
                return
            self._follow_clock(chosen.clock_resets)  # it may have jumped in the meantime
            self._map(chosen, world_from_rig)
            self._report()

    def _follow_clock(self, resets: int) -> None:
        """Forget the map where the sets from here on are of another round of a bag."""
        if resets <= self._clock_resets:
            return
        self._clock_resets = resets
        logger.warning("stamps jumped back: scene and map are reset")
        if self._tf is not None:
            self._tf.forget()
        self._reset("clock_jump")

    def _take_placed(
        self, waiting: WaitingSets, now_ns: int
    ) -> tuple[ImageSet, Rigid3] | tuple[None, None]:
        """The next set whose place is known; the others wait, this thread does not."""
        assert self._calibrated is not None  # _calibrate has set it
        rig_frame = self._calibrated.rig.rig_frame
        found = waiting.next_placed(self._ingest.take, now_ns, rig_frame)
        if found is None:
            return None, None
        self._placed_at_s = time.monotonic()
        return found

    def _map(self, chosen: ImageSet, world_from_rig: Rigid3 | None) -> None:
        self._step_since_s = time.monotonic()
        arrived_s = self._newest_arrival(chosen)
        with self.pipeline.timings.measure("decode"):
            frame_set = self._ingest.decode_set(chosen)
        if frame_set is None:
            return
        if world_from_rig is not None:
            frame_set = replace(frame_set, world_from_rig=world_from_rig)
        while self._set_wanted:
            future = self._set_wanted.pop()
            if future.set_running_or_notify_cancel():
                future.set_result(frame_set)
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
        finally:
            self._step_since_s = None
        self._errors_in_a_row = 0
        self._tell(result, arrived_s)

    def finish(self, timeout_s: float) -> None:
        """Map the keyframes of a moving rig that wait for their window to fill.

        Without a map they go on waiting: too few of them would make a bad first window. What goes
        wrong is logged; where it takes longer than `timeout_s`, the map gets them later.
        """
        if self.pipeline.config.motion == "static" or self.pipeline.scene is None:
            return
        try:
            self.call(self._finish, timeout_s)
        except TimeoutError:
            logger.warning(
                "the newest keyframes are still being mapped after %.0f s, or are left out",
                timeout_s,
            )
        except VggtRosError as error:
            logger.warning("the newest keyframes are not mapped: %s", error)
        except Exception:  # a fault of ours, logged by the task; deactivating goes on
            self._internal_errors += 1

    def _finish(self) -> None:
        self._step_since_s = time.monotonic()
        try:
            result = self.pipeline.finish()
        finally:
            self._step_since_s = None
        if result is not None and result.depth_maps:
            newest_ns = max(d.stamp_ns for d in result.depth_maps)
            self._tell(replace(result, stamp_ns=max(newest_ns, self._stamp_ns)), None)
        self._report()

    def _tell(self, result: Any, arrived_s: float | None) -> None:
        """What a set has led to."""
        if arrived_s is not None and result.depth_maps:
            self.pipeline.timings.add("image to map", (time.monotonic() - arrived_s) * 1e3)
        scene = self.pipeline.scene
        if scene is None or self._calibrated is None:
            return
        self._detail = ""
        self._stamp_ns = result.stamp_ns
        if scene is not self._told:  # also where the set that found it could not be mapped
            self._overlap = rig_overlap(scene)
            self._on_scene(scene, self._calibrated, result.stamp_ns)
            self._told = scene
        self._alignments.update({d.camera: d.alignment for d in result.depth_maps})
        moves = self.pipeline.config.motion != "static"
        motion = self._places.update(self.pipeline, result) if moves else None
        self._on_step(result, scene.scale.is_metric, motion)

    def _newest_arrival(self, chosen: ImageSet) -> float | None:
        """When the last image of a set came, by the steady clock."""
        arrivals = [self._arrived_s.pop((i.camera, i.stamp_ns), None) for i in chosen.images]
        return max((a for a in arrivals if a is not None), default=None)

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

    def _reset(self, reason: str = "reset") -> None:
        self.pipeline.reset()
        self._told = None
        self._alignments.clear()
        self._detail = ""
        self._places.clear()
        self._forget_sets(reason)
        self._overlap = math.nan
        self._on_cleared()

    def take_over(self, saved: SavedMap) -> None:
        """Go on with a loaded map; call it in the worker thread (`call`).

        Raises:
            VggtRosError: as `MappingPipeline.take_over`; nothing has changed.
        """
        self.pipeline.take_over(saved)
        self._told = None
        self._alignments.clear()
        self._detail = ""
        self._places.clear()
        self._overlap = rig_overlap(saved.scene)
        self._stamp_ns = max(self._stamp_ns, saved.stamp_ns)
        self._on_cleared()
        if self._calibrated is not None:  # else with the first set
            self._on_scene(saved.scene, self._calibrated, self._stamp_ns)
            self._told = saved.scene
        self._report()

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
        moves = pipeline.config.motion != "static"
        fault = self._waiting.fault if self._waiting is not None else ""
        self._health = Health(
            stamp_ns=self._stamp_ns,
            state=pipeline.state.value,
            detail=self._detail or fault or pipeline.failure,
            scene=scene,
            bootstrapper=scene.bootstrapper if scene else pipeline.config.bootstrap,
            depth_estimator=pipeline.depth_estimator.name,
            engines=pipeline.engines,
            map_points=pipeline.map.size,
            memory_bytes=pipeline.memory_bytes,
            sets_received=ingest.sets,
            sets_used=pipeline.sets_used,
            dropped=dict(self._all_dropped()),
            camera_drops={name: dict(c) for name, c in ingest.camera_counts.items()},
            camera_errors=self._calibration.errors,
            alignments=dict(self._alignments),
            timings=pipeline.timings.summary(),
            scale_drift=getattr(pipeline, "scale_drift", math.nan),
            map_from_rig=self._places.map_from_rig if moves else scene and scene.map_from_rig,
            map_from_world=pipeline.map_from_world if moves else None,
            keyframes=pipeline.keyframes if moves else 0,
            loops=pipeline.loops if moves else 0,
            place_fault=fault,
            unplaced_s=time.monotonic() - self._placed_at_s if fault else 0.0,
            map_from_camera=self._places.cameras(self._calibrated, scene),
            set_back=ingest.set_back,
            skews_ms=ingest.skews_ms,
            clock_jumps=ingest.clock_resets + self._clock_jumps,
            overlap=self._overlap,
            internal_errors=self._internal_errors,
            waits=scene is None and self._calibrated is None,
        )

    def _warn(self, reason: str, text: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(reason, -_REPEAT_WARNING_S) >= _REPEAT_WARNING_S:
            self._warned[reason] = now
            logger.warning("%s", text)


def _named(error: BaseException) -> str:
    """Kind and text of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
