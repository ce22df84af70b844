"""The `~/save_map` and `~/load_map` services: whole archives, while mapping goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros.errors import VggtRosError
from vggt_ros.export.files import checked_path
from vggt_ros.nodes.exporting import SNAPSHOT_TIMEOUT_S
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.srv import LoadMap, SaveMap

if TYPE_CHECKING:  # imported where they are used: they bring the kernels of the map along
    from vggt_ros.pipeline.archive import SavedMap

logger = logging.getLogger(__name__)

SET_TIMEOUT_S = 60.0
"""For one set of images to look for the cameras in, and for a map to take its place: a bootstrap
that is under way may take so long."""


def answer_save(
    request: SaveMap.Request, response: SaveMap.Response, worker: MappingWorker
) -> SaveMap.Response:
    """Write an archive; all that can go wrong is said in the response."""
    from vggt_ros.pipeline.archive import snapshot, write_snapshot

    def save() -> None:
        path = checked_path(request.path, worker.pipeline.config)
        taken = worker.call(
            lambda: snapshot(worker.pipeline, worker.health.stamp_ns), SNAPSHOT_TIMEOUT_S
        )
        response.num_bytes = write_snapshot(path, taken)
        response.num_points = taken.points
        response.files = [str(Path(path).absolute())]
        response.message = (
            f"map of {taken.points} points ({taken.about['unit']}) and "
            f"{len(taken.about['cameras'])} cameras in {response.files[0]}, "
            f"{response.num_bytes / 1e6:.1f} MB"
        )

    return _said(save, response, "saving")


def answer_load(
    request: LoadMap.Request, response: LoadMap.Response, worker: MappingWorker, active: bool
) -> LoadMap.Response:
    """Go on with a saved map.

    Where that cannot be, the running one stays, and the response says why.
    """
    from vggt_ros.pipeline.archive import check_cameras, load_archive

    def load() -> None:
        pipeline = worker.pipeline
        path = checked_path(request.path, pipeline.config)
        saved = load_archive(path, pipeline.config)
        check_cameras(saved, pipeline)
        how = "its cameras are where they were when it was saved"
        if request.reanchor:
            saved, how = _reanchored(saved, worker, active)
        worker.call(lambda: worker.take_over(saved), SET_TIMEOUT_S)
        response.num_points = saved.map.size
        unit = saved.scene.scale.unit
        response.message = f"map of {saved.map.size} points ({unit}) from {path}; {how}"

    return _said(load, response, "loading")


def _reanchored(saved: SavedMap, worker: MappingWorker, active: bool) -> tuple[SavedMap, str]:
    from vggt_ros.pipeline.reanchor import reanchor

    if worker.pipeline.config.motion != "static":
        raise VggtRosError(
            "reanchor: expected motion: static, got "
            f"'{worker.pipeline.config.motion}', which says itself where the rig is; load without"
        )
    if not active or worker.paused:
        raise VggtRosError(
            "reanchor: expected live images, but the mapper is "
            f"{'paused' if active else 'inactive'}; "
            f"{'call ~/pause with data: false' if active else 'activate it'} first"
        )
    try:
        frame_set = worker.next_set(SET_TIMEOUT_S)
    except TimeoutError as error:
        raise VggtRosError(
            f"reanchor: no complete set of images came within {SET_TIMEOUT_S:.0f} s; see the "
            "drop reasons in ~/status"
        ) from error
    found = reanchor(saved, frame_set)
    return found.saved, str(found)


def _said(action: Callable[[], None], response: Any, what: str) -> Any:
    try:
        action()
    except TimeoutError:
        response.message = f"{what}: mapping was busy for too long; try again"
        return response
    except VggtRosError as error:
        response.message = str(error)
        return response
    except Exception as error:
        logger.exception("internal error while %s", what)
        response.message = f"internal error: {error}"
        return response
    response.success = True
    return response
