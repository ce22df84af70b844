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

from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError, VggtRosError
from vggt_ros.mapping.settings import check_settings
from vggt_ros.mapping.updates import check_crop
from vggt_ros.msg import MapStatus
from vggt_ros.nodes import parameters
from vggt_ros.nodes.calibration import Calibration, with_rig_topics
from vggt_ros.nodes.camera_monitor import CameraMonitor
from vggt_ros.nodes.health import Health
from vggt_ros.nodes.inputs import CameraInputs, image_topic
from vggt_ros.nodes.mapper_parameters import check_least_cameras, declare_mapper
from vggt_ros.nodes.mapper_services import MapperServices
from vggt_ros.nodes.motion import RigInTf
from vggt_ros.nodes.node_config import MapperConfig
from vggt_ros.nodes.outputs import Outputs
from vggt_ros.nodes.qos_events import QosReport
from vggt_ros.nodes.reports import Look, Reports
from vggt_ros.nodes.rig_check import RigChecker
from vggt_ros.nodes.side_outputs import SideOutputs
from vggt_ros.nodes.transforms import Frames, listen
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.parameters.tree import flatten
from vggt_ros.pipeline.ingest import Ingest

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR

STOP_TIMEOUT_S = 3.0
"""A step in hand is waited for so long; launch sends SIGTERM after 5 s."""

FINISH_TIMEOUT_S = 10.0
"""On deactivate the keyframes that a moving rig has in hand are mapped for so long at most."""

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
        self._error = ""
        """Why the node went to error processing; forgotten when it is configured again."""
        self._qos_report = QosReport(self.get_logger())
        self._config, self._rig = declare_mapper(self)
        self._frames: Frames | None = None
        self._outputs: Outputs | None = None
        self._worker: MappingWorker | None = None
        self._pipeline: Any = None
        self._inputs: CameraInputs | None = None
        self._calibration: Calibration | None = None
        self._jump_handle: Any = None
        self._map_timer: Any = None
        self._side_outputs: SideOutputs | None = None
        self._resolved = with_rig_topics(self._config, self._rig)
        self._monitors = self._make_monitors()
        self._state = MapStatus.STATE_UNCONFIGURED
        self._inputs_group = MutuallyExclusiveCallbackGroup()
        self._timers_group = MutuallyExclusiveCallbackGroup()
        # Not the node's clock: with a /clock that stands still nothing would be reported.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._answer_impossible_transitions()
        self._failed_guard = self.create_guard_condition(self._leave_failed)
        self._rig_checker = RigChecker(
            self, lambda: self._worker, lambda: self._resolved, lambda: self._frames
        )
        self._reports = Reports(
            self,
            self._look,
            self._qos_report,
            self._rig_checker,
            self._timers_group,
            self._steady,
        )
        self._answers = MapperServices(
            self, lambda: self._worker, lambda: self._inputs is not None
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
        if self._side_outputs is not None:
            self._side_outputs.republish()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the map stays."""
        if self._has_failed():
            return ERROR
        done = self._transition("deactivate", self._finish_and_unsubscribe, failed=ERROR)
        return super().on_deactivate(state) if done == SUCCESS else done

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        if self._has_failed():
            return ERROR
        return self._transition("cleanup", self._free, failed=ERROR)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        return self._transition("shutdown", self._free, failed=ERROR)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; where this ends is the parameter `after_error`."""
        self.get_logger().error(f"error processing: {self._error}")
        done = self._transition("error processing", self._free)
        policy = self._config.after_error
        if policy == "exit":
            self.exit_code = 1
            self._stop.set()
        return FAILURE if policy == "finalized" else done

    def close(self) -> bool:
        """Stop threads and free everything, whatever the state."""
        self._free()
        return self._finished and not self._rig_checker.busy

    def _answer_impossible_transitions(self) -> None:
        """A request such as to activate what is active: rclpy's error would end the process."""
        service = self._service_change_state
        change_state = service.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RCLError as error:
                asked = request.transition.label or request.transition.id
                state = self._state_machine.current_state[1]
                self.get_logger().warning(
                    f"transition {asked} is refused: impossible from '{state}': {error}"
                )
                response.success = False
                return response

        service.callback = answer

    def _has_failed(self) -> bool:
        """Whether the mapping thread has ended by itself; then that is why we go on to errors."""
        if self._worker is None or not self._worker.failure:
            return False
        self._error = self._worker.failure
        return True

    def _leave_failed(self) -> None:
        """The mapping thread has ended: by way of a transition that fails to error processing."""
        if not self._has_failed():
            return
        if self._inputs is not None:
            self.trigger_deactivate()
        else:
            self.trigger_cleanup()

    def _transition(
        self,
        name: str,
        action: Callable[[], None],
        undo: Callable[[], None] | None = None,
        failed: TransitionCallbackReturn = FAILURE,
    ) -> TransitionCallbackReturn:
        """Log what goes wrong and return `failed`; rclpy swallows exceptions of transitions."""
        try:
            action()
        except Exception as error:
            if isinstance(error, VggtRosError):
                self.get_logger().error(f"{name} failed: {error}")
            else:
                self.get_logger().error(f"{name} failed:\n{traceback.format_exc()}")
            if failed == ERROR:
                self._error = f"{name} failed: {type(error).__name__}: {error}"
            if undo is not None:
                undo()
            return failed
        self.get_logger().info(f"{name}: done")
        return SUCCESS

    def _configure(self) -> None:
        self._error = ""
        self._reports.start_anew()
        self._resolved = with_rig_topics(self._config, self._rig)
        self._monitors = self._make_monitors()
        config = self._resolved
        check_crop(config.crop)
        self.get_logger().info(f"configuration: {dataclasses.asdict(config)}")
        pipeline = self._pipeline_factory(config)
        pipeline.load_calibration()
        self._prepare(pipeline)
        self._pipeline = pipeline
        frames = listen(self, self._inputs_group, config.frame.tf_history_s)
        self._frames = frames
        self._outputs = Outputs(self, config, frames, self._qos_report, self._timers_group)
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
            self._cleared,
            RigInTf(frames.lookup_at, frames.forget_moving, self._now_ns)
            if config.motion == "tf"
            else None,
            max_internal_errors=config.max_internal_errors,
            on_failure=self._failed_guard.trigger,
        )
        self._worker.start()
        self._side_outputs = SideOutputs(
            self,
            config,
            lambda: self._worker,
            self._timers_group,
            self._steady,
            self._qos_report,
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None,
                min_backward=Duration(seconds=-CLOCK_JUMP_S),
                on_clock_change=False,
            ),
            post_callback=self._on_clock_jump,
        )
        self._state = MapStatus.STATE_INACTIVE

    def _cleared(self) -> None:
        """From the worker thread: the map has begun anew."""
        for outputs in (self._outputs, self._side_outputs):
            if outputs is not None:
                outputs.cleared()
        self._rig_checker.forget()

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
            self._qos_report,
        )
        self._make_map_timer()
        if self._side_outputs is not None:
            self._side_outputs.start()
        self._state = MapStatus.STATE_BOOTSTRAPPING

    def _finish_and_unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.finish(FINISH_TIMEOUT_S)
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        if self._side_outputs is not None:
            self._side_outputs.stop()
        if self._map_timer is not None:
            self.destroy_timer(self._map_timer)
            self._map_timer = None
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.flush()
            self._worker.pause(False)
        self._forget_destroyed()
        self._state = MapStatus.STATE_INACTIVE

    def _forget_destroyed(self) -> None:
        """Rclpy's callback groups keep a weak reference to all that was ever in them."""
        for group in (self.default_callback_group, self._inputs_group, self._timers_group):
            dead = [entity for entity in list(group.entities) if entity() is None]
            group.entities.difference_update(dead)

    def _free(self) -> None:
        """Free everything, also where one part fails; then its error is raised at the end."""
        failures: list[Exception] = []
        for part in (
            self._unsubscribe,
            self._free_clock,
            self._free_worker,
            self._free_pipeline,
            self._free_outputs,
            self._free_side_outputs,
            self._free_frames,
        ):
            try:
                part()
            except Exception as error:  # raised below
                failures.append(error)
        self._calibration = None
        self._rig_checker.forget()
        self._forget_destroyed()
        self._state = MapStatus.STATE_UNCONFIGURED
        if failures:
            raise failures[0]

    def _free_clock(self) -> None:
        handle, self._jump_handle = self._jump_handle, None
        if handle is not None:
            handle.unregister()

    def _free_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        idle = worker.stop(STOP_TIMEOUT_S)
        self._finished = idle and self._finished
        if idle:
            self._save_calibration(worker.pipeline)
        else:  # it still computes; its engines end with the process
            self._pipeline = None

    def _free_pipeline(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def _free_outputs(self) -> None:
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            self._finished = outputs.close() and self._finished

    def _free_side_outputs(self) -> None:
        side_outputs, self._side_outputs = self._side_outputs, None
        if side_outputs is not None:
            self._finished = side_outputs.close() and self._finished

    def _free_frames(self) -> None:
        frames, self._frames = self._frames, None
        if frames is not None:
            frames.close()

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

    def _on_parameters(self, changes: list[Any]) -> SetParametersResult:
        configured = self._state != MapStatus.STATE_UNCONFIGURED
        result = parameters.check_changes(self._config, changes, configured)
        values = {c.name: c.value for c in changes if c.name in flatten(self._config)}
        if result.successful and values:
            config = parameters.replace_leaves(self._config, values)
            try:
                check_settings(config.map)
                check_least_cameras(config, config.cameras)
                check_crop(config.crop)
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
            self._config = config
            if configured:
                self._apply(parameters.replace_leaves(self._resolved, values))
            else:
                self._reports.set_rate(config.publish.status_rate_hz)
        return result

    def _apply(self, config: MapperConfig) -> None:
        """Run-time changes to everything that is running."""
        rate_changed = config.publish.map_rate_hz != self._resolved.publish.map_rate_hz
        self._resolved = config
        self._reports.set_rate(config.publish.status_rate_hz)
        if self._outputs is not None:
            self._outputs.config = config
        if self._side_outputs is not None:
            self._side_outputs.set_config(config)
        if self._worker is not None:
            self._worker.max_internal_errors = config.max_internal_errors
            self._worker.set_config(config)
        if rate_changed and self._map_timer is not None:
            self._make_map_timer()

    # --- reports -------------------------------------------------------------------------------

    def _make_monitors(self) -> list[CameraMonitor]:
        config = self._resolved
        return [
            CameraMonitor(name, image_topic(self, config.camera[name])) for name in config.cameras
        ]

    def _look(self) -> Look:
        """How things are now, for the reports."""
        worker, outputs = self._worker, self._outputs
        health = worker.health if worker is not None else Health()
        state = self._state
        if state == MapStatus.STATE_BOOTSTRAPPING:
            state = _STATES[health.state]
            if worker is not None and worker.paused:
                state = MapStatus.STATE_PAUSED
        both = (outputs, self._side_outputs)
        errors = sum(some.errors for some in both if some is not None)
        if errors:
            health = dataclasses.replace(health, publishing_errors=errors)
        return Look(state, health, self._monitors, self._resolved, self._error)

    def _make_map_timer(self) -> None:
        if self._map_timer is not None:
            self.destroy_timer(self._map_timer)
        self._map_timer = self.create_timer(
            1.0 / self._resolved.publish.map_rate_hz,
            self._request_map,
            callback_group=self._timers_group,
            clock=self._steady,
        )

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _request_map(self) -> None:
        outputs, worker = self._outputs, self._worker
        if outputs is not None and worker is not None:
            outputs.request_map(worker)

    def _on_clock_jump(self, jump: Any) -> None:
        if self._worker is not None and self._frames is not None:
            self.get_logger().warning("the clock jumped back: scene and map are reset")
            self._frames.forget_moving()
            self._worker.clock_jumped()
