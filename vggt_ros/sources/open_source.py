"""The one way to open folders, videos and webcams, with the flags of `reconstruct`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vggt_ros.errors import ConfigError, nearest
from vggt_ros.rig import Rig
from vggt_ros.sources.calibration_files import load_calibration
from vggt_ros.sources.cameras import Views
from vggt_ros.sources.source import ImageSource
from vggt_ros.sources.webcam_device import CaptureSettings

KINDS = ("images", "videos", "webcams")


@dataclass(frozen=True)
class SourceOptions:
    """What can be asked of a source; the flag of `reconstruct` stands beside each field."""

    images: str | Path = ""
    """`--images`: folder of image folders, or of images."""
    images_live: bool = False
    """`--images_live`: the folder grows; it ends when nothing has come for `idle_s`."""
    camera_per_image: bool = False
    """`--camera_per_image`: each image of a flat folder is a camera of a static rig."""
    videos: str | Path = ""
    """`--videos`: folder of videos, folder of folders, or one video."""
    start_set: int = 0
    """`--start_set`: go on with this set of the videos."""
    webcams: Sequence[str | int] = ()
    """`--webcams 0 1 2` or `front=0 left=1`."""
    views: str | Sequence[str] = ()
    """`--views cam001,cam005`: these cameras, in this order."""
    random_views: int = 0
    """`--random_views 8`: so many cameras, drawn with `seed`; not with `views`."""
    num_cams: int = 0
    """`--num_cams 8`: at most the first so many; 0: all. Not applied to `views`."""
    seed: int = 42
    """`--seed`."""
    frame_step: int = 1
    """`--frame_step`: every so many-th image of each camera."""
    intrinsics: str | Path = ""
    """`--intrinsics`: `.npz`, `.json`, `.yaml` or a folder of PKU `cam.txt` files."""
    poses: str | Path = ""
    """`--poses`: the same; camera to world."""
    fps: float = 10.0
    """`--fps`: of image folders, which do not say it."""
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    """Resolution, rate and format that are asked of webcams."""
    max_skew_ms: float = 40.0
    """Of webcams: largest difference of stamps within a set."""
    idle_s: float = 30.0
    """Of `images_live`."""
    open_timeout_s: float = 10.0
    """Of webcams: each must give an image within this time at the start."""


def open_source(
    kind: str,
    options: SourceOptions,
    *,
    rig: Rig | None = None,
    clock: Callable[[], int] = time.time_ns,
    stop: threading.Event | None = None,
) -> ImageSource:
    """Open what `--source` names.

    Cameras are chosen so: those of the folder, in natural order, after those of the rig; then
    `views`, or `random_views`; then at most `num_cams`. Calibration files overrule the rig, and
    poses put the cameras into the frame `world`.

    Args:
        kind: `images`, `videos` or `webcams`.
        options: the flags.
        rig: from a rig file.
        clock: stamps of webcams [ns].
        stop: ends a wait for images of a folder that grows.

    Returns:
        A source; close it at the end.

    Raises:
        ConfigError: an unknown kind, nothing to open, or flags that do not go together.
        SourceError: what is named is not there or damaged.
        CalibrationError: wrong calibration files.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"source: expected {', '.join(KINDS)}, got '{kind}'{nearest(kind, KINDS)}"
        )
    views = _views(options)
    given = getattr(options, kind)
    if not given:
        raise ConfigError(f"source {kind}: expected {_EXPECTED[kind]}, got nothing")
    for name, owner in (
        ("images_live", "images"),
        ("camera_per_image", "images"),
        ("start_set", "videos"),
    ):
        if kind != owner and getattr(options, name):
            raise ConfigError(f"{name}: means nothing with source {kind}")
    if options.images_live and options.camera_per_image:
        raise ConfigError("camera_per_image: means nothing with images_live")
    calibration = load_calibration(options.intrinsics, options.poses)
    if kind == "videos":
        from vggt_ros.sources.videos import VideoSource

        return VideoSource(
            options.videos,
            rig,
            views=views,
            frame_step=options.frame_step,
            start_set=options.start_set,
            calibration=calibration,
        )
    if kind == "webcams":
        from vggt_ros.sources.webcams import WebcamSource

        return WebcamSource(
            options.webcams,
            rig,
            views=views,
            frame_step=options.frame_step,
            calibration=calibration,
            settings=options.capture,
            clock=clock,
            max_skew_ms=options.max_skew_ms,
            open_timeout_s=options.open_timeout_s,
        )
    if options.images_live:
        from vggt_ros.sources.live_images import LiveImageFolderSource

        return LiveImageFolderSource(
            options.images,
            rig,
            options.fps,
            views=views,
            frame_step=options.frame_step,
            calibration=calibration,
            idle_s=options.idle_s,
            stop=stop,
        )
    from vggt_ros.sources.images import ImageFolderSource

    return ImageFolderSource(
        options.images,
        options.camera_per_image,
        rig,
        options.fps,
        views=views,
        frame_step=options.frame_step,
        calibration=calibration,
    )


_EXPECTED = {
    "images": "a folder of images",
    "videos": "a folder of videos or a video",
    "webcams": "devices, such as 0 1 2 or front=0 left=1",
}


def _views(options: SourceOptions) -> Views:
    names = options.views
    if isinstance(names, str):
        names = [word.strip() for word in names.split(",") if word.strip()]
    return Views(tuple(names), options.random_views, options.num_cams, options.seed)
