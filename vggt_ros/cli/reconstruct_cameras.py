"""Which cameras `reconstruct` opens, and what it takes to be known of them."""

from __future__ import annotations

import contextlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.cli.reconstruct_plan import Plan
from vggt_ros.errors import CalibrationError, ConfigError
from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.sources.open_source import open_source
from vggt_ros.sources.source import ImageSource

_LOG = logging.getLogger(__name__)


def open_sources(plan: Plan) -> ImageSource:
    """The source with the cameras that the flags choose.

    Raises:
        ConfigError, SourceError, CalibrationError: as `open_source`; a selection that needs
            poses where there are none.
    """
    options = plan.options
    if plan.view_select != "first" and plan.num_cams:
        if plan.kind == "webcams":
            raise ConfigError(
                f"--view-select {plan.view_select}: webcams are named one by one, or by --views"
            )
        with contextlib.closing(
            open_source(plan.kind, replace(options, num_cams=0), rig=plan.rig)
        ) as source:
            rig = source.rig
        if len(rig.names) > plan.num_cams:
            chosen = select_views(rig, plan.view_select, plan.num_cams, options.seed)
            _LOG.info("--view-select %s: %s", plan.view_select, ", ".join(chosen))
            options = replace(options, views=chosen)
    return open_source(plan.kind, options, rig=plan.rig)


def open_live(plan: Plan, cameras: Sequence[str]) -> ImageSource:
    """The folder of `--images_live DIR`, with the cameras of the bootstrap.

    Raises:
        SourceError: no images come.
    """
    options = replace(
        plan.options,
        images=plan.live_images,
        images_live=True,
        views=list(cameras),
        random_views=0,
    )
    return open_source("images", options, rig=plan.rig)


def rig_in_use(plan: Plan, rig: Rig) -> Rig:
    """The rig of the source after `--undistort`.

    Raises:
        CalibrationError: `on`, and a camera without distortion.
    """
    models = rig.models
    if plan.undistort == "on":
        plain = [name for name in rig.names if name not in models or not models[name].is_distorted]
        if plain:
            raise CalibrationError(
                f"--undistort on: expected a distortion of every camera, got none of "
                f"{', '.join(plain)}; give it in --intrinsics or --rig, or use --undistort auto"
            )
    if plan.undistort != "off":
        return rig
    cameras = []
    for camera in rig.cameras:
        if camera.model is not None and camera.model.is_distorted:
            _LOG.warning("--undistort off: the distortion of %s is not used", camera.name)
            camera = replace(camera, model=camera.model.without_distortion())
        cameras.append(camera)
    return Rig(tuple(cameras), rig.rig_frame)


def are_unscaled(plan: Plan) -> bool:
    """Whether the file of poses says, as one of an earlier run may, that its unit is no metre."""
    path = Path(plan.options.poses)
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False  # whoever reads the poses says what is wrong
    return isinstance(content, dict) and content.get("unit") == "unscaled"


def select_views(rig: Rig, how: str, count: int, seed: int) -> list[str]:
    """`count` of the cameras of a rig, in its order.

    Args:
        how: max-spread: each next one farthest from those before, beginning with the one
            farthest from the middle; front-arc: those whose view axes are nearest to the mean
            one; random.

    Raises:
        ConfigError: no poses of all cameras, where they are needed.
    """
    names = rig.names
    if how == "random":
        chosen = random.Random(seed).sample(names, count)
    else:
        poses = rig.poses
        missing = [name for name in names if name not in poses]
        if missing:
            raise ConfigError(
                f"--view-select {how}: expected poses of all cameras, got none of "
                f"{', '.join(missing[:8])}; give --poses, or choose with --views"
            )
        places = [poses[name] for name in names]
        rows = _spread(places, count) if how == "max-spread" else _front(places, count)
        chosen = [names[k] for k in rows]
    return [name for name in names if name in chosen]


def _spread(poses: Sequence[Rigid3], count: int) -> list[int]:
    centres = np.array([pose.translation for pose in poses])
    first = int(np.linalg.norm(centres - centres.mean(axis=0), axis=1).argmax())
    chosen = [first]
    while len(chosen) < count:
        gaps: NDArray[np.float64] = np.linalg.norm(centres[:, None] - centres[chosen], axis=2)
        nearest = gaps.min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def _front(poses: Sequence[Rigid3], count: int) -> list[int]:
    axes = np.array([pose.rotation[:, 2] for pose in poses])
    likeness = axes @ axes.sum(axis=0)
    return [int(k) for k in np.argsort(-likeness, kind="stable")[:count]]
