"""What the mapper publishes of its map beside `~/map`: changed blocks, and a grid for navigation.

Both are copied and computed only while somebody subscribes. The worker copies between two steps;
a thread of its own computes and publishes.
"""

from __future__ import annotations

import array
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import PointCloud2, PointField

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError, VggtRosError
from vggt_ros.nodes import conversions, qos
from vggt_ros.nodes.latest_publisher import LatestPublisher
from vggt_ros.nodes.qos_events import QosReport, advertise
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.pipeline.report import map_frame
from vggt_ros.pipeline.scale_fusion import withholds

if TYPE_CHECKING:  # imported where they are used: they bring kernels along
    from vggt_ros.geometry import Rigid3
    from vggt_ros.mapping.occupancy import OccupancyGrid as Grid
    from vggt_ros.mapping.occupancy import RayView
    from vggt_ros.mapping.updates import UpdatePart
    from vggt_ros.types import PointCloud

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0

_REPEAT_WARNING_S = 30.0

_MOST_PLACES = 24
"""Of a path that was corrected, from which free space is seen anew."""

UPDATE_FIELDS = (
    *((name, 4 * k, PointField.FLOAT32) for k, name in enumerate("xyz")),
    ("rgb", 12, PointField.FLOAT32),
    ("confidence", 16, PointField.FLOAT32),
    ("block", 20, PointField.UINT32),
)
_UPDATE_STEP = 24


@dataclass(frozen=True, eq=False)
class _Seen:
    """The map and what it shows the cameras."""

    cloud: PointCloud
    views: list[RayView]
    stamp_ns: int
    generation: int
    """Of the map: another one begins when it is cleared."""


class SideOutputs:
    """`~/map_update` and `~/occupancy`, from configure to cleanup.

    Args:
        node: the mapper.
        config: may be replaced by `set_config`.
        worker: gives the worker, None while there is none.
        group: for the timers.
        clock: of the timers.
        qos_report: is told of subscribers that ask for more than is offered.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: Config,
        worker: Callable[[], MappingWorker | None],
        group: CallbackGroup,
        clock: Clock,
        qos_report: QosReport,
    ) -> None:
        from vggt_ros.mapping.occupancy import OccupancyMapper
        from vggt_ros.mapping.updates import MapUpdates

        self._node = node
        self._qos_report = qos_report
        self._config = config
        self._get_worker = worker
        self._group, self._clock = group, clock
        self._timers: list[Any] = []
        self._warned: dict[str, float] = {}
        self._update_publisher = self._publisher(
            PointCloud2, "~/map_update", qos.reliable(qos.DEPTH)
        )
        self._grid_publisher = self._publisher(OccupancyGrid, "~/occupancy", qos.latched())
        self._updates = MapUpdates()
        self._wants_all = threading.Event()
        self._since: int | None = None
        self._followed: Any = None
        """The map whose revisions `_since` counts, and the settings that it was copied with."""
        self._listeners = 0
        self._complete_at_s = 0.0
        self._grids = OccupancyMapper(config.occupancy)
        self._generation = 0
        self._corrections = 0
        self._grid_generation = 0
        self._path_ns: int | None = None
        """Up to this stamp the path has shown what is free."""
        self._published: tuple[Grid, int, str] | None = None
        """What is latched, with its stamp and frame."""
        self._is_empty = False
        self._busy = {"update": threading.Event(), "occupancy": threading.Event()}
        self._thread = LatestPublisher(
            {"update": self._publish_update, "occupancy": self._publish_grid}
        )
        self._thread.start()

    def start(self) -> None:
        """Copy and publish at the rates of the configuration."""
        self.stop()
        for rate_hz, tick in (
            (self._config.publish.update_rate_hz, self._tick_update),
            (self._config.occupancy.rate_hz, self._tick_grid),
        ):
            self._timers.append(
                self._node.create_timer(
                    1.0 / rate_hz, tick, callback_group=self._group, clock=self._clock
                )
            )

    def stop(self) -> None:
        """No more copies; what is latched stays."""
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._timers = []
        self._listeners = 0  # whoever listens after the next start gets everything

    def set_config(self, config: Config) -> None:
        """Take over the parameters that may change while mapping."""
        before = self._rates()
        self._config = config
        if self._timers and self._rates() != before:
            self.start()

    def close(self) -> bool:
        """End the thread and destroy the publishers."""
        self.stop()
        finished = self._thread.stop(STOP_TIMEOUT_S)
        for publisher in (self._update_publisher, self._grid_publisher):
            self._node.destroy_lifecycle_publisher(publisher)
        return finished

    @property
    def errors(self) -> int:
        """Messages that could not be made or published."""
        return self._thread.errors

    def republish(self) -> None:
        """After activate: what was cleared while inactive is latched still."""
        if self._is_empty:
            self._thread.put("occupancy", None)

    def _rates(self) -> tuple[float, float]:
        return self._config.publish.update_rate_hz, self._config.occupancy.rate_hz

    # --- changed blocks ----------------------------------------------------------------------

    def _tick_update(self) -> None:
        listeners = self._update_publisher.get_subscription_count()
        period_s = self._config.publish.update_complete_period_s
        now_s = time.monotonic()
        if listeners > self._listeners or (period_s and now_s - self._complete_at_s >= period_s):
            self._wants_all.set()
            self._complete_at_s = now_s
        self._listeners = listeners
        if listeners:
            self._post("update", self._copy_changes)

    def _copy_changes(self, worker: MappingWorker) -> None:
        config, map_, scene = self._config, worker.pipeline.map, worker.pipeline.scene
        if withholds(config, scene):
            return
        voxel_m = config.publish.update_voxel_m
        followed = (map_, config.map.min_hits, config.map.min_confidence, config.crop, voxel_m)
        since = self._since if followed == self._followed else None
        if self._wants_all.is_set():
            self._wants_all.clear()
            since = None
        changes = map_.changes(since, config.map.min_hits, config.map.min_confidence)
        self._followed, self._since = followed, changes.revision
        if changes.complete or len(changes.blocks):
            self._updates.add(changes, config.crop, voxel_m)
        frame = map_frame(config.frame.map, scene)
        self._thread.put("update", (worker.health.stamp_ns, frame))

    def _publish_update(self, value: tuple[int, str]) -> None:
        with self._said("update"):
            part = self._updates.next_part(self._config.publish.update_max_points)
            if part is not None:
                self._update_publisher.publish(update_message(part, *value))

    # --- the grid for navigation -------------------------------------------------------------

    def _tick_grid(self) -> None:
        if self._config.occupancy.enabled and self._grid_publisher.get_subscription_count():
            self._post("occupancy", self._copy_seen)

    def _copy_seen(self, worker: MappingWorker) -> None:
        from vggt_ros.mapping.occupancy import RAY_WIDTH, RayView
        from vggt_ros.pipeline.archive import scene_at_the_end

        pipeline = worker.pipeline
        scene = pipeline.scene
        if scene is None or withholds(self._config, scene):
            return
        if self._config.occupancy.resolution_m < self._config.map.voxel_m:
            raise ConfigError(
                f"occupancy.resolution_m: expected at least map.voxel_m, "
                f"{self._config.map.voxel_m}, got {self._config.occupancy.resolution_m}: the grid "
                "would have holes"
            )
        path = sorted(pipeline.path(), key=lambda place: place[0])
        if pipeline.corrections != self._corrections:
            # The walls have moved: what is free is found anew, from all over the path.
            self._corrections = pipeline.corrections
            self._generation += 1
        elif path:
            # A window brings many keyframes at once.
            seen_ns = self._path_ns
            path = [p for p in path if seen_ns is None or p[0] > seen_ns] or path[-1:]
        if path:
            self._path_ns = path[-1][0]
        places = [scene_at_the_end(scene, [place]) for place in _thinned(path)] or [scene]
        views = []
        for model, pose in (
            (at.cameras[name], at.map_from_camera[name]) for at in places for name in at.cameras
        ):
            small = model.without_distortion()
            if small.width > RAY_WIDTH:
                height = max(1, round(small.height * RAY_WIDTH / small.width))
                small = small.resized(RAY_WIDTH, height)
            views.append(RayView(pipeline.map.render(small, pose).depth, small, pose))
        self._thread.put(
            "occupancy",
            _Seen(pipeline.cloud(), views, worker.health.stamp_ns, self._generation),
        )

    def _publish_grid(self, seen: _Seen | None) -> None:
        if seen is None:
            self._publish_unknown()
            return
        with self._said("occupancy"):
            self._grids.config = self._config.occupancy
            if seen.generation != self._grid_generation:
                self._grid_generation = seen.generation
                self._grids.clear()
            grid = self._grids.update(seen.cloud, seen.views)
            self._published = grid, seen.stamp_ns, seen.cloud.frame
            self._is_empty = False
            self._grid_publisher.publish(grid_message(*self._published))

    def _publish_unknown(self) -> None:
        """Nothing is known where the grid that is latched was."""
        if self._published is None:
            return
        from vggt_ros.mapping.occupancy import UNKNOWN

        grid, stamp_ns, frame_id = self._published
        unknown = dataclasses.replace(grid, cells=np.full_like(grid.cells, UNKNOWN))
        self._grid_publisher.publish(grid_message(unknown, stamp_ns, frame_id))

    def cleared(self) -> None:
        """The map has begun anew: what was free is so no longer. From the worker thread."""
        self._generation += 1
        self._path_ns = None
        self._is_empty = True
        self._thread.put("occupancy", None)

    # --- common ------------------------------------------------------------------------------

    def _post(self, what: str, copy: Callable[[MappingWorker], None]) -> None:
        """Have the worker copy between two steps, unless the last copy is still under way."""
        worker, busy = self._get_worker(), self._busy[what]
        if worker is None or busy.is_set():
            return
        busy.set()

        def task() -> None:
            try:
                with self._said(what):
                    copy(worker)
            finally:
                busy.clear()

        worker.post(task)

    def _said(self, what: str) -> _Said:
        return _Said(what, self._warned)

    def _publisher(self, kind: Any, topic: str, profile: Any) -> Any:
        return advertise(
            self._node.create_lifecycle_publisher,
            self._qos_report,
            kind,
            topic,
            profile,
            qos_overriding_options=qos.overridable(),
        )


def _thinned(path: Sequence[tuple[int, Rigid3]]) -> Sequence[tuple[int, Rigid3]]:
    """Not too many of the places of a path, its end among them."""
    step = -(-len(path) // _MOST_PLACES) or 1
    return path[::-1][::step]


class _Said:
    """Logs an error of ours that a person can mend, now and then."""

    def __init__(self, what: str, warned: dict[str, float]) -> None:
        self._what, self._warned = what, warned

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, VggtRosError):
            return False
        now = time.monotonic()
        if now - self._warned.get(self._what, -_REPEAT_WARNING_S) >= _REPEAT_WARNING_S:
            self._warned[self._what] = now
            topic = {"update": "~/map_update"}.get(self._what, f"~/{self._what}")
            logger.warning("%s is not published: %s", topic, error)
        return True


def update_message(part: UpdatePart, stamp_ns: int, frame_id: str) -> PointCloud2:
    """Fields x y z rgb confidence block, see docs/conventions.md."""
    count = len(part.points)
    message = PointCloud2(
        height=1,
        width=count,
        point_step=_UPDATE_STEP,
        row_step=_UPDATE_STEP * count,
        is_dense=False,  # headers and emptied blocks are not numbers
    )
    message.header.stamp = conversions.time_message(stamp_ns)
    message.header.frame_id = frame_id
    message.fields = [
        PointField(name=name, offset=offset, datatype=datatype, count=1)
        for name, offset, datatype in UPDATE_FIELDS
    ]
    buffer = array.array("B", bytes(_UPDATE_STEP * count))
    rows = np.frombuffer(buffer, np.uint32).reshape(count, _UPDATE_STEP // 4)
    rows[:, :3] = part.points.view(np.uint32)
    red, green, blue = part.colours.astype(np.uint32).T
    rows[:, 3] = (red << 16) | (green << 8) | blue
    rows[:, 4] = np.ascontiguousarray(part.confidence, np.float32).view(np.uint32)
    rows[:, 5] = part.blocks
    message.data = buffer
    return message


def grid_message(grid: Grid, stamp_ns: int, frame_id: str) -> OccupancyGrid:
    """A grid as Nav2 has it: rows along y from the lower left corner."""
    message = OccupancyGrid()
    message.header.stamp = conversions.time_message(stamp_ns)
    message.header.frame_id = frame_id
    message.info.map_load_time = message.header.stamp
    message.info.resolution = grid.resolution_m
    message.info.height, message.info.width = grid.cells.shape
    message.info.origin.position.x = grid.x
    message.info.origin.position.y = grid.y
    message.info.origin.position.z = grid.floor_z
    message.info.origin.orientation.w = 1.0
    buffer = array.array("b", np.ascontiguousarray(grid.cells).tobytes())
    message.data = buffer
    return message
