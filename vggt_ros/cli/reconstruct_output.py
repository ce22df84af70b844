"""The files of `reconstruct`, in the forms that `inference_pcd` documents."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from vggt_ros import results
from vggt_ros.export.files import atomic_write, write_json, write_text
from vggt_ros.export.ply import write_ply
from vggt_ros.export.scene_files import write_features
from vggt_ros.export.trajectory import StampedPose, static_poses, write_tum
from vggt_ros.parameters import dump_config
from vggt_ros.pipeline.mapping import MappingPipeline, StepResult
from vggt_ros.pipeline.report import map_frame
from vggt_ros.preview import write_preview
from vggt_ros.types import AlignedScene, DepthMap, PointCloud

if TYPE_CHECKING:
    from vggt_ros.cli.reconstruct_run import Run

BOOTSTRAP_MAP, UPDATED_MAP = "bootstrap_map.ply", "map_updated.ply"
TSDF_VOLUME, METRICS = "tsdf_volume.npz", "metrics.json"
CALIBRATION, DEPTH_FOLDER = "per_camera_calib.json", "depth_metric"
INTRINSICS, POSES, RECTIFIED = "intrinsics.json", "poses.json", "calibration_rectified"

_NUMBER = re.compile(r"\b\d+(\.\d+)?")
"""Reasons hold figures; each would be a reason of its own, and they would never end."""


class Output:
    """Writes as the run goes on, so that memory does not grow with it; a context manager.

    `metrics.json` takes its name when `finish` has written all the rest; after an error of
    ours, too.
    """

    def __init__(self, folder: Path, save_depth: bool = False) -> None:
        self.folder = folder
        self.points = 0
        """In the map that was written."""
        self.is_unscaled = False
        """The map came from a run without a scale."""
        self.accepted: Counter[str] = Counter()
        """Depth maps that were fused, by camera."""
        self.rejected: Counter[str] = Counter()
        """Depth maps that were not, by camera and reason, numbers left out."""
        self._save_depth = save_depth
        self._stack = contextlib.ExitStack()
        self._metrics: IO[bytes]
        self._rows = 0

    def __enter__(self) -> Output:
        if self._save_depth:
            results.prepare_folder(self.folder / DEPTH_FOLDER)
        self._metrics = self._stack.enter_context(atomic_write(self.folder / METRICS))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, value, traceback)
        else:
            self._stack.close()

    def add_batch(
        self, batch: int, frame: int, result: StepResult, depth_ms: float, total_ms: float
    ) -> None:
        """Rows of `metrics.json`, and depth where it is wanted.

        Args:
            batch: sets since the bootstrap.
            frame: number of the frame in the source.
            result: of the set.
            depth_ms: that the depth of all its cameras took; each row has its share.
            total_ms: of the whole set.

        Raises:
            ExportError: no space left, for instance.
        """
        share = depth_ms / max(len(result.depth_maps), 1)
        for depth_map in result.depth_maps:
            fit = depth_map.alignment
            row = {
                "batch": batch,
                "camera": depth_map.camera,
                "frame": frame,
                "model": fit.model or fit.kind.value,
                "scale": fit.scale if fit.accepted else None,
                "shift": fit.shift if fit.accepted else None,
                "residual": fit.residual if math.isfinite(fit.residual) else None,
                "depth_ms": round(share, 3),
                "total_ms": round(total_ms, 3),
            }
            lead = b",\n " if self._rows else b"[\n "
            self._metrics.write(lead + json.dumps(row, allow_nan=False).encode())
            self._rows += 1
            if not fit.accepted:
                self.rejected[f"{depth_map.camera}: {_NUMBER.sub('N', fit.reason)}"] += 1
                continue
            self.accepted[depth_map.camera] += 1
            if self._save_depth:
                self._write_depth(batch, depth_map)

    def _write_depth(self, batch: int, depth_map: DepthMap) -> None:
        name = f"camera_{depth_map.camera}_batch_{batch:05d}.npz"
        with atomic_write(self.folder / DEPTH_FOLDER / name) as file:
            np.savez_compressed(
                file,
                depth=depth_map.depth.astype(np.float32),
                intrinsics=depth_map.model.matrix,
                map_from_camera=depth_map.map_from_camera.matrix,
            )

    def write_bootstrap_map(self, pipeline: MappingPipeline) -> None:
        """The map as the bootstrap and the depth of its set leave it, however often seen.

        Raises:
            ExportError: it cannot be written.
        """
        self._write_points(BOOTSTRAP_MAP, _whole_cloud(pipeline), pipeline.scene)

    def finish(self, run: Run) -> None:
        """Everything else; where nothing was mapped, report and metrics alone.

        Raises:
            ExportError: a file cannot be written.
        """
        pipeline = run.pipeline
        if pipeline.scene is not None:
            self._write_map(run, pipeline.scene)
        write_json(self.folder / results.TIMINGS, pipeline.timings.summary())
        write_text(self.folder / results.CONFIG, dump_config(pipeline.config))
        write_json(self.folder / results.REPORT, self.report(run))
        self._metrics.write(b"\n]\n" if self._rows else b"[]\n")
        self._stack.close()

    def _write_map(self, run: Run, scene: AlignedScene) -> None:
        pipeline = run.pipeline
        cloud = pipeline.cloud()
        self.points = len(cloud)
        comments = [f"scale {scene.scale}"]
        write_ply(self.folder / results.MAP, cloud, comments=comments)
        self._write_points(UPDATED_MAP, cloud, scene)
        poses = scene.map_from_camera
        write_tum(
            self.folder / results.TRAJECTORY,
            static_poses(poses),
            is_metric=cloud.is_metric,
            comments=comments,
        )
        if pipeline.config.motion != "static":
            write_tum(
                self.folder / results.PATH,
                [StampedPose(stamp, pose) for stamp, pose in pipeline.path()],
                is_metric=cloud.is_metric,
                comments=comments,
            )
        if scene.features:
            write_features(self.folder / results.FEATURES, scene)
        if pipeline.config.map.kind == "tsdf":
            from vggt_ros.export.tsdf_volume import write_tsdf_volume
            from vggt_ros.mapping.tsdf_map import TsdfMap

            assert isinstance(pipeline.map, TsdfMap)  # the kind says so
            write_tsdf_volume(self.folder / TSDF_VOLUME, pipeline.map)
        write_cameras(self.folder, scene)
        pipeline.save_calibration()
        if pipeline.aligner.known:
            pipeline.aligner.save(self.folder / CALIBRATION)
        write_preview(self.folder / results.PREVIEW, run.images, cloud, poses)

    def _write_points(self, name: str, cloud: PointCloud, scene: AlignedScene | None) -> None:
        """ASCII with x y z red green blue, and nothing else."""
        plain = PointCloud(
            cloud.points, cloud.colours, frame=cloud.frame, is_metric=cloud.is_metric
        )
        comments = [f"scale {scene.scale}"] if scene is not None else []
        write_ply(self.folder / name, plain, ascii=True, comments=comments)

    def report(self, run: Run) -> dict[str, Any]:
        """The content of `report.json`."""
        report: dict[str, Any] = run.pipeline.report()
        dropped = report["sets"]["dropped"]
        for reason, count in sorted((run.ingest.counts + run.dropped).items()):
            dropped[reason] = dropped.get(reason, 0) + count
        report["depth_maps"] = {
            "accepted": dict(sorted(self.accepted.items())),
            "rejected": dict(sorted(self.rejected.items())),
        }
        report["source"] = run.plan.kind
        report["initial_map"] = str(run.plan.initial_map or "")
        report["notes"] = run.notes
        return report

    def summary(self, run: Run) -> str:
        """A table for the terminal."""
        report = self.report(run)
        sets = report["sets"]
        cameras = report["cameras"]
        registered = sum(camera["registered"] for camera in cameras.values())
        scene = run.pipeline.scene
        rows = [
            ("cameras", f"{registered} of {len(run.ingest.cameras)} registered", "", ""),
            ("bootstrap", report["bootstrapper"], "", ""),
            ("depth", report["depth_estimator"], "", ""),
            ("scale", str(scene.scale) if scene else "none: nothing was mapped", "", ""),
            ("sets", f"{sets['used']} of {sets['received']} used", "", ""),
            ("map", f"{report['map']['points']:,} points", "", ""),
        ]
        rows += [("note", note, "", "") for note in run.notes]
        return results.table(rows, ("what", "result", "", ""))


def _whole_cloud(pipeline: MappingPipeline) -> PointCloud:
    """The map with all that was seen at least once; after one set nothing was seen often."""
    cloud = pipeline.map.cloud(1)
    metric = pipeline.scene is not None and pipeline.scene.scale.is_metric
    frame = map_frame(pipeline.config.frame.map, pipeline.scene)
    return PointCloud(cloud.points, cloud.colours, frame=frame, is_metric=metric)


def write_cameras(folder: Path, scene: AlignedScene) -> None:
    """`intrinsics.json` and `poses.json`, which `--intrinsics` and `--poses` take, and K alone.

    Raises:
        ExportError: a file cannot be written.
    """
    intrinsics: dict[str, Any] = {}
    results.prepare_folder(folder / RECTIFIED)
    for name, model in scene.cameras.items():
        entry: dict[str, Any] = {"matrix": model.matrix.tolist(), "size": list(model.size)}
        if model.is_distorted:
            entry["distortion"] = {
                "model": model.distortion_model,
                "coefficients": list(model.distortion),
            }
        intrinsics[name] = entry
        matrix = model.without_distortion().matrix.tolist()
        write_json(folder / RECTIFIED / f"{name}.json", {"camera": name, "matrix": matrix})
    write_json(folder / INTRINSICS, {"intrinsics": intrinsics})
    write_json(
        folder / POSES,
        {
            "unit": scene.scale.unit,
            "poses": [
                {"camera": name, "frame": 0, "matrix": pose.matrix.tolist()}
                for name, pose in scene.map_from_camera.items()
            ],
        },
    )
