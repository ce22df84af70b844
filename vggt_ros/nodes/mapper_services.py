"""The services of the mapper; in the wrong lifecycle state they say so instead of being absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from vggt_ros.nodes import archiving, exporting
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.srv import ExportMap, LoadMap, SaveMap


class MapperServices:
    """`~/export_map`, `~/save_map`, `~/load_map`, `~/bootstrap`, `~/reset` and `~/pause`.

    They run beside images and timers: those that may take long in one callback group, those that
    are accepted at once in another, so that ~/pause never waits for an export.

    Args:
        node: the mapper.
        worker: gives the worker, None while unconfigured.
        is_active: whether the mapper is subscribed.
    """

    def __init__(
        self,
        node: Node,
        worker: Callable[[], MappingWorker | None],
        is_active: Callable[[], bool],
    ) -> None:
        self._name = node.get_name()
        self._get_worker = worker
        self._is_active = is_active
        long, quick = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        for kind, name, callback, group in (
            (ExportMap, "~/export_map", self._on_export_map, long),
            (Trigger, "~/bootstrap", self._on_bootstrap, quick),
            (Trigger, "~/reset", self._on_reset, quick),
            (SetBool, "~/pause", self._on_pause, quick),
            (SaveMap, "~/save_map", self._on_save_map, long),
            (LoadMap, "~/load_map", self._on_load_map, long),
        ):
            node.create_service(kind, name, callback, callback_group=group)

    def _refuse(self, response: Any, active: bool) -> bool:
        """Whether the state forbids a service; then the response says so."""
        if self._get_worker() is None:
            response.message = f"{self._name} is unconfigured: configure and activate it first"
        elif active and not self._is_active():
            response.message = f"{self._name} is inactive: activate it first"
        else:
            return False
        response.success = False
        return True

    def _on_export_map(
        self, request: ExportMap.Request, response: ExportMap.Response
    ) -> ExportMap.Response:
        worker = self._get_worker()
        if not self._refuse(response, active=False) and worker is not None:
            exporting.answer(request, response, worker)
        return response

    def _on_bootstrap(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        return self._start_again(
            response, "scene and map are forgotten, the next sets are bootstrapped", active=True
        )

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._start_again(response, "scene and map are forgotten", active=False)

    def _start_again(
        self, response: Trigger.Response, text: str, active: bool
    ) -> Trigger.Response:
        worker = self._get_worker()
        if not self._refuse(response, active) and worker is not None:
            health = worker.health
            worker.reset()
            response.success = True
            response.message = (
                f"accepted: {text} ({health.map_points} points, {health.sets_used} sets mapped "
                "so far); see ~/status"
            )
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        worker = self._get_worker()
        if not self._refuse(response, active=True) and worker is not None:
            waited = worker.pause(request.data)
            dropped = worker.health.dropped.get("paused", 0)
            response.success = True
            response.message = (
                f"paused; {waited} images that waited are dropped"
                if request.data
                else f"mapping goes on; {dropped} images were dropped while paused"
            )
        return response

    def _on_save_map(
        self, request: SaveMap.Request, response: SaveMap.Response
    ) -> SaveMap.Response:
        worker = self._get_worker()
        if not self._refuse(response, active=False) and worker is not None:
            archiving.answer_save(request, response, worker)
        return response

    def _on_load_map(
        self, request: LoadMap.Request, response: LoadMap.Response
    ) -> LoadMap.Response:
        worker = self._get_worker()
        if not self._refuse(response, active=False) and worker is not None:
            archiving.answer_load(request, response, worker, self._is_active())
        return response
