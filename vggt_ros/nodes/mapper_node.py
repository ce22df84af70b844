"""The lifecycle node around `MappingPipeline`.

configure: load and verify engines, compile, warm up; activate: subscribe; deactivate:
unsubscribe, the map stays; cleanup: free everything. Images go to the queues of ingest, a worker
thread maps, a second one publishes (`worker.py`); services answer while both work.
"""

from __future__ import annotations

import dataclasses
import threading
import traceback
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vggt_ros.config import CameraConfig, Config
from vggt_ros.errors import ConfigError, VggtRosError, nearest
from vggt_ros.mapping.settings import check_settings
from vggt_ros.msg import MapStatus
from vggt_ros.nodes import parameters, qos
from vggt_ros.nodes.calibration import Calibration, with_rig_topics
from vggt_ros.nodes.inputs import CameraInputs, image_topic
from vggt_ros.nodes.mapper_services import MapperServices
from vggt_ros.nodes.node_config import MapperConfig
from vggt_ros.nodes.outputs import Outputs
from vggt_ros.nodes.rig_check import RigChecker
from vggt_ros.nodes.status import CameraMonitor, diagnostics, map_status
from vggt_ros.nodes.transforms import Frames, listen
from vggt_ros.nodes.worker import Health, MappingWorker
from vggt_ros.parameters.tree import flatten
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.rig import Rig, load_rig

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

DIAGNOSTICS_PERIOD_S = 1.0

STOP_TIMEOUT_S = 3.0
"""A step in hand is waited for so long; launch sends SIGTERM after 5 s."""

CLOCK_JUMP_S = 0.5
"""A /clock that goes back by more is one that was set back (bag loop)."""

_STATES = {
    "collecting": MapStatus.STATE_BOOTSTRAPPING,
    "mapping": MapStatus.STATE_MAPPING,
    "failed": MapStatus.STATE_FAILED,
}

PipelineFactory = Callable[[Config], Any]


def make_pipeline(config: Config) -> Any:
    """The real pipeline; imported late, for it brings numba and pycolmap along."""
    from vggt_ros.pipeline.mapping import MappingPipeline

    return MappingPipeline(config)


class Mapper(LifecycleNode):
    """Images, CameraInfo and TF in; map, depth, transforms and health out.

    Args:
        stop: set by a signal; the node sets it itself where autostart fails.
        pipeline_factory: makes what `MappingWorker` drives.

    Raises:
        ConfigError: wrong parameters or rig file.
    """

    def __init__(
        self, stop: threading.Event, pipeline_factory: PipelineFactory = make_pipeline
    ) -> None:
        super().__init__("mapper")
        self.exit_code = 0
        self._stop = stop
        self._pipeline_factory = pipeline_factory
        self._finished = True
        self._rig: Rig | None = None
        self._config = self._declare_parameters()
        self._frames: Frames | None = None
        self._outputs: Outputs | None = None
        self._worker: MappingWorker | None = None
        self._pipeline: Any = None
        self._inputs: CameraInputs | None = None
        self._calibration: Calibration | None = None
        self._jump_handle: Any = None
        self._map_timer: Any = None
        self._resolved = with_rig_topics(self._config, self._rig)
        self._monitors = self._make_monitors()
        self._state = MapStatus.STATE_UNCONFIGURED
        self._inputs_group = MutuallyExclusiveCallbackGroup()
        self._timers_group = MutuallyExclusiveCallbackGroup()
        # Not the node's clock: with a /clock that stands still nothing would be reported.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._create_reports()
        self._answers = MapperServices(
            self, lambda: self._worker, lambda: self._inputs is not None
        )
        self._rig_checker = RigChecker(
            self, lambda: self._worker, lambda: self._resolved, lambda: self._frames
        )
        if self._config.autostart:
            self._start_timer = self.create_timer(0.0, self._autostart, clock=self._steady)

    # --- lifecycle -----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make, compile and warm up everything; see also `_configure`."""
        return self._transition("configure", self._configure, undo=self._free)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and publish; the map that is there already is published again."""
        done = self._transition("activate", self._activate, undo=self._unsubscribe)
        if done != SUCCESS:
            return done
        result = super().on_activate(state)  # enables the publishers
        if self._outputs is not None:
            self._outputs.republish()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the map stays."""
        done = self._transition("deactivate", self._unsubscribe)
        return super().on_deactivate(state) if done == SUCCESS else done

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        return self._transition("cleanup", self._free)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        return self._transition("shutdown", self._free)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        return self._transition("error processing", self._free)

    def close(self) -> bool:
        """Stop threads and free everything, whatever the state."""
        self._free()
        return self._finished and not self._rig_checker.busy

    def _transition(
        self, name: str, action: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        """Log what goes wrong and return FAILURE; rclpy swallows exceptions of transitions."""
        try:
            action()
        except Exception as error:
            if isinstance(error, VggtRosError):
                self.get_logger().error(f"{name} failed: {error}")
            else:
                self.get_logger().error(f"{name} failed:\n{traceback.format_exc()}")
            if undo is not None:
                undo()
            return FAILURE
        self.get_logger().info(f"{name}: done")
        return SUCCESS

    def _configure(self) -> None:
        self._resolved = with_rig_topics(self._config, self._rig)
        self._monitors = self._make_monitors()
        config = self._resolved
        self.get_logger().info(f"configuration: {dataclasses.asdict(config)}")
        pipeline = self._pipeline_factory(config)
        pipeline.load_calibration()
        self._prepare(pipeline)
        self._pipeline = pipeline
        self._frames = listen(self, self._inputs_group)
        self._outputs = Outputs(self, config, self._frames)
        self._calibration = Calibration(
            config, self._rig, self._frames, self._config.calibration_wait_s
        )
        self._worker = MappingWorker(
            pipeline,
            Ingest(
                config.cameras,
                {},
                config.ingest,
                [name for name in config.cameras if config.camera[name].depth_topic],
            ),
            self._calibration,
            self._outputs.scene_found,
            self._outputs.set_mapped,
            self._outputs.cleared,
        )
        self._worker.start()
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None,
                min_backward=Duration(seconds=-CLOCK_JUMP_S),
                on_clock_change=False,
            ),
            post_callback=self._on_clock_jump,
        )
        self._state = MapStatus.STATE_INACTIVE

    def _prepare(self, pipeline: Any) -> None:
        """Compile and warm up in a thread of its own, for a signal must still end the process."""
        failures: list[Exception] = []

        def work() -> None:
            try:
                pipeline.prepare()
            except Exception as error:  # raised again below
                failures.append(error)

        thread = threading.Thread(target=work, name="preparing", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
            if self._stop.is_set():
                self._finished = False
                raise VggtRosError("interrupted")
        if failures:
            raise failures[0]

    def _activate(self) -> None:
        assert self._calibration is not None  # configure has made them
        assert self._worker is not None
        self._worker.flush()
        self._inputs = CameraInputs(
            self,
            self._resolved,
            self._monitors,
            self._calibration,
            self._worker,
            self._inputs_group,
        )
        self._make_map_timer()
        self._state = MapStatus.STATE_BOOTSTRAPPING

    def _unsubscribe(self) -> None:
        if self._map_timer is not None:
            self.destroy_timer(self._map_timer)
            self._map_timer = None
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.flush()
            self._worker.pause(False)
        self._state = MapStatus.STATE_INACTIVE

    def _free(self) -> None:
        self._unsubscribe()
        if self._jump_handle is not None:
            self._jump_handle.unregister()
            self._jump_handle = None
        if self._worker is not None:
            idle = self._worker.stop(STOP_TIMEOUT_S)
            if idle:
                self._save_calibration(self._worker.pipeline)
            else:  # it still computes; its engines end with the process
                self._pipeline = None
            self._finished = idle and self._finished
            self._worker = None
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        if self._outputs is not None:
            self._finished = self._outputs.close() and self._finished
            self._outputs = None
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        self._calibration = None
        self._rig_checker.forget()
        self._state = MapStatus.STATE_UNCONFIGURED

    def _save_calibration(self, pipeline: Any) -> None:
        try:
            pipeline.save_calibration()
        except VggtRosError as error:  # nothing else of the clean-up depends on it
            self.get_logger().error(f"align.calibration_file: {error}")

    def _autostart(self) -> None:
        self.destroy_timer(self._start_timer)
        if self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS:
            return
        if not self._stop.is_set():
            self.exit_code = 1
            self._stop.set()

    # --- parameters ----------------------------------------------------------------------------

    def _declare_parameters(self) -> MapperConfig:
        defaults = MapperConfig()
        rig_file = parameters.read_override(self, "rig_file", defaults.rig_file)
        names = parameters.read_override(self, "cameras", defaults.cameras)
        if rig_file:
            self._rig = load_rig(rig_file)
            for name in names:
                if name not in self._rig.names:
                    raise ConfigError(
                        f"parameter 'cameras': '{name}' is not in {rig_file}"
                        f"{nearest(name, self._rig.names)}, which has {', '.join(self._rig.names)}"
                    )
            names = names or list(self._rig.names)
        parameters.check_camera_names(names)
        tree = dataclasses.replace(defaults, camera={name: CameraConfig() for name in names})
        config = parameters.declare(
            self, tree, read_only=("cameras", "camera.", "rig_file", "autostart")
        )
        if not names:
            raise ConfigError(
                "parameter 'cameras': expected one camera name or more, or a rig_file; got none"
            )
        if config.ingest.min_cameras > len(names):
            raise ConfigError(
                f"parameter 'ingest.min_cameras': expected at most the {len(names)} cameras, "
                f"got {config.ingest.min_cameras}"
            )
        return config

    def _on_parameters(self, changes: list[Any]) -> SetParametersResult:
        configured = self._state != MapStatus.STATE_UNCONFIGURED
        result = parameters.check_changes(self._config, changes, configured)
        values = {c.name: c.value for c in changes if c.name in flatten(self._config)}
        if result.successful and values:
            config = parameters.replace_leaves(self._config, values)
            try:
                check_settings(config.map)
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
            self._config = config
            if configured:
                self._apply(parameters.replace_leaves(self._resolved, values))
        return result

    def _apply(self, config: MapperConfig) -> None:
        """Run-time changes to everything that is running."""
        rate_changed = config.publish.map_rate_hz != self._resolved.publish.map_rate_hz
        self._resolved = config
        if self._outputs is not None:
            self._outputs.config = config
        if self._worker is not None:
            pipeline = self._worker.pipeline
            self._worker.post(lambda: pipeline.set_config(config))
        if rate_changed and self._map_timer is not None:
            self._make_map_timer()

    # --- reports -------------------------------------------------------------------------------

    def _make_monitors(self) -> list[CameraMonitor]:
        config = self._resolved
        return [
            CameraMonitor(name, image_topic(self, config.camera[name])) for name in config.cameras
        ]

    def _create_reports(self) -> None:
        self._status_publisher = self.create_publisher(
            MapStatus, "~/status", qos.reliable(), qos_overriding_options=qos.overridable()
        )
        self._diagnostics_publisher = self.create_publisher(
            DiagnosticArray, "/diagnostics", qos.reliable()
        )
        for period_s, callback in (
            (1.0 / self._config.publish.status_rate_hz, self._publish_status),
            (DIAGNOSTICS_PERIOD_S, self._publish_diagnostics),
        ):
            self.create_timer(
                period_s, callback, callback_group=self._timers_group, clock=self._steady
            )

    def _status(self) -> tuple[MapStatus, Health]:
        worker = self._worker
        health = worker.health if worker is not None else Health()
        state = self._state
        if state == MapStatus.STATE_BOOTSTRAPPING:
            state = _STATES[health.state]
            if worker is not None and worker.paused:
                state = MapStatus.STATE_PAUSED
        now_ns = self.get_clock().now().nanoseconds
        return map_status(state, health, self._monitors, self._resolved, now_ns), health

    def _publish_status(self) -> None:
        self._status_publisher.publish(self._status()[0])

    def _publish_diagnostics(self) -> None:
        status, health = self._status()
        now_ns = self.get_clock().now().nanoseconds
        message = diagnostics(self.get_name(), status, self._monitors, health, now_ns)
        rig_check = self._rig_checker.diagnostic()
        if rig_check is not None:
            message.status.append(rig_check)
        self._diagnostics_publisher.publish(message)
        self._rig_checker.poll()

    def _make_map_timer(self) -> None:
        if self._map_timer is not None:
            self.destroy_timer(self._map_timer)
        self._map_timer = self.create_timer(
            1.0 / self._resolved.publish.map_rate_hz,
            self._request_map,
            callback_group=self._timers_group,
            clock=self._steady,
        )

    def _request_map(self) -> None:
        outputs, worker = self._outputs, self._worker
        if outputs is not None and worker is not None:
            outputs.request_map(worker)

    def _on_clock_jump(self, jump: Any) -> None:
        if self._worker is not None and self._frames is not None:
            self.get_logger().warning("the clock jumped back: scene and map are reset")
            self._frames.forget_moving()
            self._worker.reset()
