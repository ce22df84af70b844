"""The `~/export_map` service: a snapshot between two steps, written while mapping goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from vggt_ros.config import Config
from vggt_ros.errors import ExportError, VggtRosError
from vggt_ros.export.files import checked_path, write_json
from vggt_ros.export.formats import Exported, export_map
from vggt_ros.export.select import filter_cloud
from vggt_ros.export.trajectory import StampedPose, static_poses
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.parameters import dump_config
from vggt_ros.pipeline.scale_fusion import check_metric
from vggt_ros.srv import ExportMap
from vggt_ros.types import AlignedScene, PointCloud

logger = logging.getLogger(__name__)

REPORT = "report"
"""Beside the formats of `export_map`: what `report.json` holds."""

SNAPSHOT_TIMEOUT_S = 30.0
"""A step takes a second or so; one that bootstraps takes longer, but then there is no map."""


def answer(
    request: ExportMap.Request, response: ExportMap.Response, worker: MappingWorker
) -> ExportMap.Response:
    """Write what is asked for; all that can go wrong is said in the response."""
    try:
        path = checked_path(request.path, worker.pipeline.config)
        taken = worker.call(lambda: _snapshot(request, worker), SNAPSHOT_TIMEOUT_S)
        cloud = taken.cloud
        if request.format == REPORT:
            write_json(path, taken.report)
            done = Exported([path], len(cloud), "points")
        else:
            done = export_map(
                path,
                request.format,
                cloud,
                taken.poses,
                scene=taken.scene,
                comments=[f"scale {taken.scene.scale}"],
                config_text=dump_config(taken.config),
            )
    except TimeoutError:
        response.message = f"mapping was busy for {SNAPSHOT_TIMEOUT_S:.0f} s; try again"
        return response
    except VggtRosError as error:
        response.message = str(error)
        return response
    except Exception as error:
        logger.exception("internal error while exporting")
        response.message = f"internal error: {error}"
        return response
    response.success = True
    response.files = [str(Path(file).absolute()) for file in done.files]
    response.num_points = done.count
    unit = "metres" if cloud.is_metric else "unscaled, not metres"
    detail = f"; {done.detail}" if done.detail else ""
    what = f"{done.count} {done.what} ({unit})"
    response.message = f"{what} in {', '.join(response.files)}{detail}"
    return response


class _Snapshot(NamedTuple):
    """All that an export needs, of one moment."""

    cloud: PointCloud
    poses: list[StampedPose]
    scene: AlignedScene
    config: Config
    report: dict[str, Any]


def _snapshot(request: ExportMap.Request, worker: MappingWorker) -> _Snapshot:
    """Runs in the worker thread."""
    pipeline = worker.pipeline
    scene = pipeline.scene
    if scene is None:
        raise ExportError("there is no map yet: the cameras' poses have not been found")
    check_metric(scene.scale, pipeline.config.scale)
    try:
        cloud = pipeline.cloud(voxel_m=request.voxel_m)
    except ValueError as error:
        raise ExportError(f"voxel_m: {error}") from error
    cloud = filter_cloud(cloud, min_confidence=request.min_confidence)
    report = worker.report() if request.format == REPORT else {}
    path = sorted(pipeline.path(), key=lambda place: place[0])
    if path:  # the scene is that of the first window; the rig has moved since
        from vggt_ros.pipeline.archive import scene_at_the_end

        poses = [StampedPose(stamp_ns, map_from_rig) for stamp_ns, map_from_rig in path]
        scene = scene_at_the_end(scene, path)
    else:
        poses = static_poses(scene.map_from_camera, worker.health.stamp_ns)
    return _Snapshot(cloud, poses, scene, pipeline.config, report)
