"""The `~/export_map` service: a snapshot between two steps, written while mapping goes on."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

from vggt_ros.config import Config
from vggt_ros.errors import ExportError, VggtRosError
from vggt_ros.export.files import write_json
from vggt_ros.export.formats import export_map
from vggt_ros.export.trajectory import StampedPose, static_poses
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.parameters import dump_config
from vggt_ros.srv import ExportMap
from vggt_ros.types import PointCloud, ScaleEstimate

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
        taken = worker.call(lambda: _snapshot(request, worker), SNAPSHOT_TIMEOUT_S)
        cloud, poses = taken.cloud, taken.poses
        if request.format == REPORT:
            write_json(request.path, taken.report)
            files = [Path(request.path)]
        else:
            files = export_map(
                Path(request.path),
                request.format,
                cloud,
                poses,
                comments=[f"scale {taken.scale}"],
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
    response.files = [str(Path(file).absolute()) for file in files]
    is_trajectory = files[0].suffix == ".tum" or request.format.lower() == "tum"
    response.num_points = len(poses) if is_trajectory else len(cloud)
    unit = "metres" if cloud.is_metric else "unscaled, not metres"
    what = "poses" if is_trajectory else "points"
    response.message = f"{response.num_points} {what} ({unit}) in {', '.join(response.files)}"
    return response


class _Snapshot(NamedTuple):
    """All that an export needs, of one moment."""

    cloud: PointCloud
    poses: list[StampedPose]
    scale: ScaleEstimate
    config: Config
    report: dict[str, Any]


def _snapshot(request: ExportMap.Request, worker: MappingWorker) -> _Snapshot:
    """Runs in the worker thread."""
    pipeline = worker.pipeline
    scene = pipeline.scene
    if scene is None:
        raise ExportError("there is no map yet: the cameras' poses have not been found")
    if not request.path:
        raise ExportError("path: expected a file to write, got nothing")
    if not 0 <= request.min_confidence <= 1:
        raise ExportError(f"min_confidence: expected 0 to 1, got {request.min_confidence:g}")
    try:
        cloud = pipeline.cloud(voxel_m=request.voxel_m)
    except ValueError as error:
        raise ExportError(f"voxel_m: {error}") from error
    if request.min_confidence > 0 and cloud.confidence is not None:
        keep = cloud.confidence >= request.min_confidence
        cloud = dataclasses.replace(
            cloud,
            points=cloud.points[keep],
            colours=cloud.colours[keep],
            normals=None if cloud.normals is None else cloud.normals[keep],
            confidence=cloud.confidence[keep],
        )
    report = worker.report() if request.format == REPORT else {}
    poses = static_poses(scene.map_from_camera, worker.health.stamp_ns)
    return _Snapshot(cloud, poses, scene.scale, pipeline.config, report)
