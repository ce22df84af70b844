"""What a bag holds and which bootstrapper can work on it, before any mapping."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vggt_ros.config import IngestConfig
from vggt_ros.errors import CalibrationError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.ingest import ImageSet, Ingest
from vggt_ros.rig import Rig
from vggt_ros.sources.bag import BagReader, CameraTopics
from vggt_ros.sources.bag_findings import (
    BagCheck,
    CameraCheck,
    PairCheck,
    judge_camera,
    judge_rig,
    judge_sfm,
    overlap_groups,
)
from vggt_ros.sources.camera_topics import names_in_rig
from vggt_ros.sources.messages import any_image_from_message
from vggt_ros.sources.overlap import (
    find_features,
    measure_overlap,
    texture_share,
)
from vggt_ros.sources.transform_tree import TransformTree
from vggt_ros.types import FrameSet


def check_bag(
    bag: BagReader,
    config: IngestConfig,
    rig: Rig | None = None,
    track: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> BagCheck:
    """Measure a bag in one pass over its images.

    Args:
        bag: an open bag.
        config: how sets are made.
        rig: calibration that overrules that of the bag.
        track: shows the progress of (messages, their number).

    Raises:
        SourceError: no image topics.
    """
    topics = bag.camera_topics()
    if not topics:
        kinds = ", ".join(f"{t.name} ({t.msgtype})" for t in bag.topics.values())
        raise SourceError(
            f"bag {bag.path}: no image topics; expected sensor_msgs Image or CompressedImage, "
            f"got {kinds or 'no topics'}"
        )
    names = names_in_rig(topics, rig)
    checks = {names[c.name]: CameraCheck(names[c.name], c.image_topic) for c in topics.values()}
    problems: list[str] = []
    models = _calibrate(bag, topics, names, rig, checks)
    poses = _poses(bag, rig, checks, problems)
    if rig is not None:
        for entry in rig.cameras:
            if entry.name not in checks:
                problems.append(f"camera '{entry.name}' of the rig file is not in the bag")

    by_topic = {c.image_topic: names[c.name] for c in topics.values()}
    sending = [n for t, n in by_topic.items() if bag.topics[t].count]
    skews: dict[tuple[str, str], list[float]] = defaultdict(list)
    chosen, sets, dropped = _read(bag, by_topic, sending, config, checks, skews, track)
    frames = _decode(chosen, sending, models, config, checks, dropped)
    pairs = _pairs(list(checks), skews, frames)
    for check in checks.values():
        judge_camera(check)
    if bag.truncated:
        problems.append(f"the bag is not whole: {bag.truncated}")
    if sending and not sets:
        problems.append(
            f"no two images lie within ingest.max_skew_ms = {config.max_skew_ms:g} ms; are the "
            f"cameras synchronised?"
        )
    groups = overlap_groups(sending, pairs)
    verdicts = {
        "sfm": judge_sfm(sending, pairs, groups, checks),
        "rig": judge_rig(sending, pairs, models, poses),
    }
    return BagCheck(list(checks.values()), pairs, sets, dict(dropped), groups, verdicts, problems)


# ---------------------------------------------------------------------------- calibration


def _calibrate(
    bag: BagReader,
    topics: dict[str, CameraTopics],
    names: dict[str, str],
    rig: Rig | None,
    checks: dict[str, CameraCheck],
) -> dict[str, CameraModel]:
    models = dict(rig.models) if rig else {}
    for camera in topics.values():
        check = checks[names[camera.name]]
        try:
            model, check.frame_id = bag.calibration(camera)
        except CalibrationError as error:
            check.calibration = "error"
            check.problems.append(str(error))
            continue
        if model is not None:
            models.setdefault(check.name, model)
    for name, model in models.items():
        if name in checks:
            checks[name].calibration = model.distortion_model if model.is_distorted else "pinhole"
    return {name: model for name, model in models.items() if name in checks}


def _poses(
    bag: BagReader, rig: Rig | None, checks: dict[str, CameraCheck], problems: list[str]
) -> dict[str, Rigid3]:
    poses: dict[str, Rigid3] = {}
    if rig is not None and rig.poses:
        poses = rig.poses
    else:
        frames = {check.name: check.frame_id for check in checks.values() if check.frame_id}
        try:
            poses, _ = TransformTree(bag.static_transforms()).camera_poses(frames)
        except CalibrationError as error:
            problems.append(str(error))
    for name in poses:
        if name in checks:
            checks[name].has_pose = True
    return {name: pose for name, pose in poses.items() if name in checks}


# ---------------------------------------------------------------------------- images


def _read(
    bag: BagReader,
    by_topic: dict[str, str],
    sending: list[str],
    config: IngestConfig,
    checks: dict[str, CameraCheck],
    skews: dict[tuple[str, str], list[float]],
    track: Callable[[Iterable[Any], int], Iterable[Any]],
) -> tuple[ImageSet | None, int, Counter[str]]:
    """Stamps of all images, and one complete set from the second half of the bag if possible."""
    stamps: dict[str, list[int]] = defaultdict(list)
    ages: dict[str, list[float]] = defaultdict(list)
    chosen: ImageSet | None = None
    sets = 0
    # Incomplete sets are let through: they still tell the overlap of the cameras they have.
    least = min(config.min_cameras or len(sending), 2) if len(sending) > 1 else 0
    ingest = Ingest(sending, {}, _replace(config, least)) if sending else None
    total = sum(bag.topics[topic].count for topic in by_topic)
    for topic, logged, message in track(bag.messages(by_topic), total):
        name = by_topic[topic]
        try:
            image = any_image_from_message(message, name)
        except SourceError as error:
            checks[name].unreadable += 1
            if checks[name].unreadable == 1:
                checks[name].problems.append(str(error))
            continue
        stamps[name].append(image.stamp_ns)
        ages[name].append((logged - image.stamp_ns) * 1e-6)
        if ingest is None:
            continue
        ingest.put(image)
        while (ready := ingest.take()) is not None:
            chosen, sets = _keep(chosen, ready, sets, skews)
    if ingest is not None:
        ingest.finish()
        while (ready := ingest.take()) is not None:
            chosen, sets = _keep(chosen, ready, sets, skews)
    for name, check in checks.items():
        _measure_stamps(check, np.array(stamps[name], np.int64), ages[name])
    return chosen, sets, ingest.counts if ingest is not None else Counter()


def _replace(config: IngestConfig, min_cameras: int) -> IngestConfig:
    import dataclasses

    return dataclasses.replace(config, min_cameras=min_cameras, require_calibration=False)


def _keep(
    chosen: ImageSet | None,
    ready: ImageSet,
    sets: int,
    skews: dict[tuple[str, str], list[float]],
) -> tuple[ImageSet, int]:
    for a, b in itertools.combinations(ready.images, 2):
        skews[a.camera, b.camera].append(abs(a.stamp_ns - b.stamp_ns) * 1e-6)
    sets += 1
    if chosen is None or len(ready.images) > len(chosen.images):
        return ready, sets
    # Powers of two: the last one kept lies in the second half, without knowing the length.
    if len(ready.images) == len(chosen.images) and sets & (sets - 1) == 0:
        return ready, sets
    return chosen, sets


def _measure_stamps(check: CameraCheck, stamps: Any, ages: list[float]) -> None:
    check.messages = len(stamps) + check.unreadable
    if not len(stamps):
        return
    check.age_ms = float(np.median(ages))
    steps = np.diff(stamps)
    check.backwards = int((steps < 0).sum())
    check.duplicates = int((steps == 0).sum())
    forward = steps[steps > 0] * 1e-6
    if len(forward):
        check.rate_hz = float(1e3 / np.median(forward))
        check.jitter_ms = float(forward.std())
        check.longest_gap_ms = float(forward.max())


def _decode(
    chosen: ImageSet | None,
    sending: list[str],
    models: dict[str, CameraModel],
    config: IngestConfig,
    checks: dict[str, CameraCheck],
    dropped: Counter[str],
) -> FrameSet | None:
    if chosen is None:
        return None
    with Ingest(sending, models, _replace(config, 1)) as ingest:
        frames = ingest.decode_set(chosen)
        for name, counts in ingest.camera_counts.items():
            for reason, count in counts.items():
                dropped[reason] += count
                if reason == "calibration":
                    checks[name].calibration = "error"
                checks[name].problems.append(f"image cannot be used: {reason}")
        for name, size in ingest.sizes.items():
            checks[name].size = size
    for frame in frames.frames if frames else ():
        checks[frame.camera].texture = texture_share(frame.rgb)
    return frames


def _pairs(
    names: list[str], skews: dict[tuple[str, str], list[float]], frames: FrameSet | None
) -> list[PairCheck]:
    features = {f.camera: find_features(f.rgb) for f in frames.frames} if frames else {}
    pairs = []
    for a, b in itertools.combinations(names, 2):
        values = skews.get((a, b)) or skews.get((b, a))
        pair = PairCheck(a, b, float(np.median(values)) if values else None)
        if a in features and b in features:
            pair.overlap = measure_overlap(features[a], features[b])
        pairs.append(pair)
    return pairs
