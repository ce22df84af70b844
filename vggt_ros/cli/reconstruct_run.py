"""The loop of `reconstruct`: sets of a source through the pipeline, with a bar and an end."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.cli.reconstruct_cameras import are_unscaled, open_live, open_sources, rig_in_use
from vggt_ros.cli.reconstruct_output import Output
from vggt_ros.cli.reconstruct_plan import Plan, with_cameras
from vggt_ros.errors import AlignmentError, SourceError, VggtRosError
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.ingest import ImageSet, Ingest
from vggt_ros.pipeline.mapping import MappingPipeline, StepResult
from vggt_ros.preview import PreviewImage
from vggt_ros.rig import Rig
from vggt_ros.sources.pose_convention import CONVENTIONS, ConventionCheck, check_pose_convention
from vggt_ros.sources.source import ImageSource
from vggt_ros.types import FrameSet, ScaleEstimate, ScaleSource, StampedImage

_LOG = logging.getLogger(__name__)

_UNMOVED = 1e-9
"""Poses of two frames that differ by less [m or as a matrix element] are the same."""


@dataclass
class Run:
    """What has happened so far."""

    pipeline: MappingPipeline
    ingest: Ingest
    output: Output
    plan: Plan
    notes: list[str] = field(default_factory=list)
    batches: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    images: list[PreviewImage] = field(default_factory=list)
    failure: VggtRosError | None = None
    """Of the bootstrap; mapping goes on with the next set."""
    frame: int = 0
    """Number of the newest frame."""
    is_checked: bool = False
    first_stamp_ns: int | None = None


def reconstruct(plan: Plan, out: Path) -> int:
    """Do what was planned; returns the exit code, 130 where a recorded source was interrupted.

    What was mapped is written, whatever ends it.

    Raises:
        SourceError: the source is not there, or an image of it cannot be read.
        CalibrationError: poses of another convention, or calibration of other cameras.
        EngineError: a network cannot be used.
        AlignmentError: no set could be bootstrapped, or the map is empty.
        ExportError: results cannot be written.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(open_sources(plan)))
        rig = rig_in_use(plan, source.rig)
        config = with_cameras(plan.config, rig.names, plan.depth_workers)
        pipeline = MappingPipeline(config, rig)
        pipeline.load_calibration()
        stack.callback(pipeline.close)
        pipeline.open_engines()
        ingest = stack.enter_context(
            Ingest(rig.names, rig.models, replace(config.ingest, min_cameras=1))
        )
        output = stack.enter_context(Output(out, plan.save_depth))
        run = Run(pipeline, ingest, output, plan, list(plan.notes))
        if are_unscaled(plan):
            run.output.is_unscaled = True
            run.notes.append(f"poses {plan.options.poses} are unscaled, and so is this run")
        if plan.initial_map is not None:
            _load_initial_map(run, source.poses(0))
        stop = _Interrupt()
        ended: BaseException | None = None
        try:
            with stop:
                for number, images, of in _sets(run, source, stop, stack):
                    _process(run, of, number, images)
                    if plan.max_batches and run.batches >= plan.max_batches:
                        break
            _finish(run)
        except VggtRosError as error:
            ended = error
        run.notes += _source_notes(source, run)
        output.finish(run)
        print(output.summary(run))
        if ended is not None:
            raise ended
        if pipeline.scene is None:
            raise AlignmentError(_why_nothing(run, source))
        print(f"\nresults in {out}")
        if not output.points:
            raise AlignmentError(
                f"{out}: the map is empty: no depth was accepted; the cameras need texture and "
                "overlap, and the right places; report.json counts what was left out"
            )
        return 130 if stop.is_set and not source.is_live else 0


class _Interrupt:
    """The first Ctrl-C ends the loop so that results are written, the second one everything."""

    def __init__(self) -> None:
        self.is_set = False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        with contextlib.suppress(ValueError):  # not in the main thread: then nobody asks
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
        _LOG.warning("interrupted: writing what there is; once more to give up")


def _sets(
    run: Run, source: ImageSource, stop: _Interrupt, stack: contextlib.ExitStack
) -> Iterator[tuple[int, tuple[StampedImage, ...], ImageSource]]:
    """(number of the frame, images, source) of every set, with a bar."""
    from tqdm import tqdm

    plan = run.plan
    step = plan.options.frame_step
    total = source.set_count
    with tqdm(desc="reconstruct", unit="set", total=total, disable=None) as bar:
        is_first = True
        while True:
            start = plan.options.start_set if plan.kind == "videos" else 0
            for number, images in enumerate(source, start):
                if stop.is_set:
                    return
                if number * step < plan.first_frame:
                    continue
                yield number * step, images, source
                bar.update()
                bar.set_postfix_str(f"{run.pipeline.map.size:,} {_unit_of_size(run)}")
                if is_first and plan.live_images and run.pipeline.scene is not None:
                    break
            if not (is_first and plan.live_images and run.pipeline.scene is not None):
                return
            is_first = False
            bar.total = None
            source = stack.enter_context(
                contextlib.closing(open_live(plan, run.pipeline.config.cameras))
            )


def _unit_of_size(run: Run) -> str:
    return "voxels" if run.pipeline.config.map.kind == "tsdf" else "surfels"


def _process(run: Run, source: ImageSource, number: int, images: tuple[StampedImage, ...]) -> None:
    """One set: decode, check poses once, step, note."""
    pipeline = run.pipeline
    run.frame = number
    stamp = max(image.stamp_ns for image in images)
    if _waits_for_cameras(run, stamp, images):
        run.dropped["cameras missing before the bootstrap"] += 1
        return
    frame_set = run.ingest.decode_set(ImageSet(stamp, images))
    if frame_set is None:
        return
    poses = source.poses(stamp)
    if not run.is_checked:
        run.is_checked = True
        _check_poses(run, frame_set, poses)
    _place_cameras(run, source, poses)
    began = time.perf_counter()
    before = _depth_total(pipeline)
    try:
        result = pipeline.step(frame_set)
    except AlignmentError as error:
        run.failure = error
        _LOG.info("bootstrap failed: %s", error)
        return
    total_ms = (time.perf_counter() - began) * 1e3
    if pipeline.scene is None:  # more sets are needed for the bootstrap
        return
    if result.bootstrapped:
        _after_bootstrap(run, frame_set, result)
    run.output.add_batch(run.batches, number, result, _depth_total(pipeline) - before, total_ms)
    run.batches += 1
    if result.depth_maps:
        depth = {d.camera: d.depth for d in result.depth_maps if d.alignment.accepted}
        run.images = [PreviewImage(f.camera, f.rgb, depth.get(f.camera)) for f in frame_set.frames]


def _finish(run: Run) -> None:
    """What a rig that moves (`motion: estimate`) saw since its last window."""
    before, began = _depth_total(run.pipeline), time.perf_counter()
    try:
        result = run.pipeline.finish()
    except AlignmentError as error:
        run.failure = error
        return
    if result is not None and result.depth_maps:
        depth_ms, total_ms = (
            _depth_total(run.pipeline) - before,
            (time.perf_counter() - began) * 1e3,
        )
        run.output.add_batch(run.batches, run.frame, result, depth_ms, total_ms)
        run.batches += 1


def _depth_total(pipeline: MappingPipeline) -> float:
    """Milliseconds that all depth has taken."""
    return pipeline.timings.summary().get("depth", {}).get("total_ms", 0.0)


def _waits_for_cameras(run: Run, stamp: int, images: tuple[StampedImage, ...]) -> bool:
    """Whether a set lacks cameras that a bootstrap should have; not for ever."""
    if run.first_stamp_ns is None:
        run.first_stamp_ns = stamp
    if run.pipeline.scene is not None or len(images) == len(run.ingest.cameras):
        return False
    patience = run.pipeline.config.ingest.silent_after_s
    return not patience or stamp - run.first_stamp_ns < patience * 1e9


def _check_poses(run: Run, frame_set: FrameSet, poses: dict[str, Rigid3]) -> None:
    """Are the given poses camera to world? Told by the images.

    Raises:
        CalibrationError: they are of another convention, which is named.
    """
    if len(poses) < 2:
        if run.plan.check_projection:
            run.notes.append(f"--validate-projection: needs two poses, got {len(poses)}")
        return
    origin = str(run.plan.options.poses or "of the rig")
    check = check_pose_convention(frame_set, poses, origin)
    if check is None:
        run.notes.append(f"poses {origin}: too few matches between the images to check them")
    elif run.plan.check_projection:
        text = f"--validate-projection: poses {origin}: {_shares(check)}"
        run.notes.append(text)
        _LOG.info("%s", text)
    if check is None and run.plan.check_projection:
        _LOG.warning("--validate-projection: intrinsics, or matches between the images, lack")


def _shares(check: ConventionCheck) -> str:
    parts = [f"{100 * check.shares[name]:.0f} % as {name}" for name in CONVENTIONS]
    return f"of {check.matches} matches fit {', '.join(parts)}"


def _place_cameras(run: Run, source: ImageSource, poses: dict[str, Rigid3]) -> None:
    """Take over poses that change from frame to frame."""
    pipeline, rig = run.pipeline, run.pipeline.rig
    if rig is None or not rig.poses or pipeline.config.motion != "static":
        return
    if pipeline.scene is None:
        if _moved(rig.poses, poses):
            pipeline.set_rig(_moved_rig(rig, poses))
        return
    moved = _moved({n: p for n, p in rig.poses.items() if n in poses}, poses)
    if moved:
        places = dict(pipeline.scene.map_from_camera)
        places.update({n: p for n, p in poses.items() if n in places})
        pipeline.scene = replace(pipeline.scene, map_from_camera=places)
        pipeline.rig = _moved_rig(rig, poses)
        pipeline.depth_estimator.prepare(pipeline.scene)


def _moved(old: dict[str, Rigid3], new: dict[str, Rigid3]) -> bool:
    return any(
        np.abs(old[name].matrix - pose.matrix).max() > _UNMOVED
        for name, pose in new.items()
        if name in old
    )


def _moved_rig(rig: Rig, poses: dict[str, Rigid3]) -> Rig:
    cameras = (
        replace(c, rig_from_camera=poses.get(c.name, c.rig_from_camera)) for c in rig.cameras
    )
    return Rig(tuple(cameras), rig.rig_frame)


def _load_initial_map(run: Run, poses: dict[str, Rigid3]) -> None:
    """Fill the map before the first set.

    Raises:
        SourceError: no map, or of another kind.
        ConfigError: of other voxels, or too large for the budget.
    """
    path, map_ = run.plan.initial_map, run.pipeline.map
    assert path is not None  # the caller has looked
    if path.suffix.lower() == ".npz":
        map_.load(path)
    elif run.pipeline.config.map.kind == "tsdf":
        raise SourceError(
            f"--initial_map {path}: points carry no distances; with --fusion tsdf give the "
            "tsdf_volume.npz of that run, or use --fusion surfel"
        )
    else:
        from vggt_ros.export.pcd import read_pcd
        from vggt_ros.export.ply import read_ply
        from vggt_ros.mapping.surfel_map import SurfelMap
        from vggt_ros.mapping.surfels_of_cloud import load_cloud

        cloud = read_pcd(path) if path.suffix.lower() == ".pcd" else read_ply(path)
        assert isinstance(map_, SurfelMap)  # the only other kind
        load_cloud(map_, cloud, [pose.translation for pose in poses.values()])
        if cloud.frame and not cloud.is_metric:
            run.output.is_unscaled = True
            run.notes.append(f"--initial_map {path} has no metric scale, and so has this run")
    _LOG.info("initial map %s: %s %s", path, f"{map_.size:,}", _unit_of_size(run))


def _after_bootstrap(run: Run, frame_set: FrameSet, result: StepResult) -> None:
    pipeline, plan = run.pipeline, run.plan
    assert pipeline.scene is not None  # the caller has looked
    if run.output.is_unscaled:
        none = ScaleEstimate(1.0, float("inf"), ScaleSource.NONE)
        pipeline.scene = replace(pipeline.scene, scale=none)
    if plan.initial_map is None:
        run.output.write_bootstrap_map(pipeline)
    if plan.log_depth:
        for depth_map in result.depth_maps:
            known = depth_map.depth[np.isfinite(depth_map.depth)]
            low, middle, high = np.percentile(known, [0, 50, 100]) if len(known) else (np.nan,) * 3
            _LOG.info(
                "depth of %s: %.3f to %.3f, median %.3f, %.0f %% of the pixels",
                depth_map.camera,
                low,
                high,
                middle,
                100 * len(known) / depth_map.depth.size,
            )
    if plan.check_geometry:
        frames = []
        for frame in frame_set.frames:
            model = pipeline.scene.cameras.get(frame.camera)
            if model is not None and frame.model is None:
                frame = run.ingest.undistort(frame, model)
            frames.append(frame)
        check = check_pose_convention(
            replace(frame_set, frames=tuple(frames)),
            pipeline.scene.map_from_camera,
            "of the bootstrap",
        )
        text = f"--debug-geo: {_shares(check) if check else 'too few matches to tell'}"
        run.notes.append(text)
        _LOG.info("%s", text)


def _source_notes(source: ImageSource, run: Run) -> list[str]:
    """Cameras that never had a usable image."""
    seen = {row for row, count in run.output.accepted.items() if count}
    return [
        f"camera '{name}': no depth was accepted"
        for name in source.rig.names
        if name not in seen and run.pipeline.scene is not None
    ]


def _why_nothing(run: Run, source: ImageSource) -> str:
    pipeline = run.pipeline
    if run.failure is not None:
        return f"{run.failure}{_hint(source)}"
    if pipeline.sets_received:
        return (
            f"the source has {pipeline.sets_received} sets, but the bootstrap needs "
            f"{pipeline.bootstrapper.sets_needed} (--set {pipeline.config.bootstrap}.sets=N)"
        )
    dropped = ", ".join(
        f"{reason} {n}" for reason, n in sorted((run.ingest.counts + run.dropped).items())
    )
    return (
        f"no set of images of {', '.join(source.rig.names)} could be used; left out: "
        f"{dropped or 'none'}"
    )


def _hint(source: ImageSource) -> str:
    """What may have been meant where there is one camera only."""
    if len(source.rig.names) != 1:
        return ""
    return (
        "; there is one camera, and one alone gives no depth: photographs of a scene that stands "
        "still are a camera each with --camera_per_image, several cameras have a folder each"
    )
