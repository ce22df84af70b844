"""From an `UnscaledScene` to the map frame: scale, up, and how well the rig fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from vggt_ros.config import ScaleConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.rig_fit import (
    Bounds,
    RigFit,
    fit_rig,
    frame_sets_of,
    sightings_of,
)
from vggt_ros.pipeline.rig_likelihood import RIG_NOISE, Sighting
from vggt_ros.pipeline.scale_fusion import Evidence, NoScale, choose_scale
from vggt_ros.pipeline.up_direction import find_ground
from vggt_ros.rig import Rig
from vggt_ros.types import (
    AlignedScene,
    CameraResidual,
    DepthAlignment,
    DepthKind,
    DepthMap,
    Float64,
    ScaleEstimate,
    ScaleSource,
    UnscaledScene,
    View,
)

_LOG = logging.getLogger(__name__)

UNSCALED_MEDIAN_DEPTH = 3.0
"""Where there is no scale, the median depth of the points is this many map units, so that
lengths in the configuration mean about what they mean indoors."""


def align_scene(
    scene: UnscaledScene,
    rig: Rig | None,
    config: ScaleConfig,
    gravity_in_camera: Mapping[str, ArrayLike] | None = None,
    evidence: Sequence[Evidence] = (),
) -> AlignedScene:
    """Put a reconstruction into the map frame.

    Where at least one registered camera has a place on the rig, `map` is the rig frame at the
    time of the newest set, z up by REP-103 (`up_source` "rig"); without a metric scale only its
    orientation is, and the origin is the mean centre of the rig's cameras (`map_from_rig` None).
    Else z is up from gravity, a ground plane or the cameras (see `find_ground`).

    The scale comes from the distances between cameras of the rig, from the parameter
    `metres_per_unit`, from the evidence of others, or from nowhere; `config.source` "auto" fuses
    all that there are (see `scale_fusion`). Scenes of the `rig` bootstrapper are metric as they
    are: other sources only contradict or confirm them. With source NONE the median depth of the
    points becomes 3 map units.

    Args:
        scene: at least one view.
        rig: `rig_from_camera` [m], also of only some of the cameras.
        config: source and bounds.
        gravity_in_camera: direction of gravity (down) in optical frames, of any cameras.
        evidence: what other sources say of the scale of this scene.

    Returns:
        Camera poses as reconstructed (not as the rig says), points, and the residual per
        camera with a place on the rig [m], NaN centres where there is no scale.

    Raises:
        AlignmentError: no views; the source asked for is missing (with the reason); most
            cameras are farther from their places than the bounds (with a table).
    """
    if not scene.views:
        raise AlignmentError("scene alignment: expected registered views, got none")
    poses = rig.poses if rig is not None else {}
    sightings = sightings_of(scene, poses)
    sets = frame_sets_of(scene)
    newest = max(sets)
    if sightings:
        bounds = Bounds(math.radians(config.max_rotation_residual_deg), config.max_centre_residual)
        fit = fit_rig(sightings, bounds, scene.pose_covariance, _unscaled_factor(scene))
        if scene.bootstrapper == "rig":
            fit = _given(fit)
        else:
            _check_fit(fit, config)
        scale = _choose_scale(scene, fit, "", config, evidence)
        map_from_set = _rig_frame(fit, scale, sightings)
        up_source = "rig"
        map_from_rig = Rigid3.identity() if scale.is_metric else None
        residuals = fit.residuals if not fit.no_scale else _without_centres(fit.residuals)
    else:
        why = (
            "no rig poses are given"
            if not poses
            else f"none of the cameras with a place on the rig ({', '.join(poses)}) is registered"
        )
        scale = _choose_scale(scene, None, why, config, evidence)
        views = [view for view, number in zip(scene.views, sets, strict=True) if number == newest]
        ground = find_ground(views, scene.points, gravity_in_camera)
        rigid = ground.map_from_scene
        map_from_set = {newest: Sim3(scale.value, rigid.rotation, scale.value * rigid.translation)}
        up_source, map_from_rig, residuals = ground.source, None, {}
    latest = max(map_from_set)
    map_from_scene = map_from_set[latest]
    cameras, map_from_camera = _cameras(scene, sets, map_from_set, latest)
    return AlignedScene(
        cameras,
        map_from_camera,
        map_from_scene.apply(scene.points.reshape(-1, 3)),
        scene.colours,
        scale,
        map_from_scene,
        residuals,
        up_source,
        scene.failed,
        scene.bootstrapper,
        map_from_rig,
        {
            view.camera: view.features
            for view, number in zip(scene.views, sets, strict=True)
            if number == latest and view.features is not None
        },
    )


def dense_depth_maps(scene: UnscaledScene, aligned: AlignedScene) -> list[DepthMap]:
    """The dense views of a scene in the map frame, ready to be fused.

    Args:
        scene: what the bootstrapper found.
        aligned: the same after `align_scene`.

    Returns:
        One per view with depth, confidence and image; none for a bootstrapper that has points
        only.
    """
    factor = np.float32(aligned.map_from_scene.scale)
    found = []
    for view in scene.views:
        depth, confidence, rgb, model = view.depth, view.confidence, view.rgb, view.depth_model
        if depth is None or confidence is None or rgb is None or model is None:
            continue
        alignment = DepthAlignment(
            view.camera,
            DepthKind.TRIANGULATED,
            scale=float(factor),
            shift=0.0,
            inlier_fraction=1.0,
            residual=math.nan,
            compared_pixels=0,
            accepted=True,
            reason="bootstrap",
        )
        found.append(
            DepthMap(
                view.camera,
                view.stamp_ns,
                depth * factor,
                confidence,
                rgb,
                model,
                aligned.map_from_scene.apply_to_pose(view.scene_from_camera),
                alignment,
            )
        )
    return found


def _given(fit: RigFit) -> RigFit:
    """The fit of a scene whose poses are those of the rig."""
    identity = {number: Sim3.identity() for number in fit.rig_from_scene}
    residuals = {name: CameraResidual(0.0, 0.0, True) for name in fit.residuals}
    # two centres, each as sure as `rig_fit` takes them to be
    return RigFit(identity, 1.0, math.sqrt(2) * RIG_NOISE, "", residuals)


def _check_fit(fit: RigFit, config: ScaleConfig) -> None:
    cameras = len(fit.residuals)
    outliers = [name for name, r in fit.residuals.items() if not r.inlier]
    needed = cameras if cameras <= 2 else cameras // 2 + 1
    if fit.inliers < needed:
        raise AlignmentError(
            f"scene alignment: {fit.inliers} of {cameras} cameras are where the rig says "
            f"(expected at least {needed}; bounds {config.max_rotation_residual_deg:g} degrees "
            f"and {100 * config.max_centre_residual:g} % of the rig's size); check "
            f"rig_from_camera, the camera names and the intrinsics:\n{_table(fit)}"
        )
    if outliers:
        _LOG.warning(
            "scene alignment: the rig's place of %s contradicts the images; not used:\n%s",
            ", ".join(outliers),
            _table(fit),
        )


def _table(fit: RigFit) -> str:
    unit = "m" if not fit.no_scale else "units"
    width = max(len(name) for name in [*fit.residuals, "camera"])
    lines = [f"  {'camera':{width}s}  centre [{unit}]  rotation [deg]"]
    for name, r in fit.residuals.items():
        mark = "" if r.inlier else "  outlier"
        lines.append(
            f"  {name:{width}s}  {r.centre:10.4f}  {math.degrees(r.rotation_rad):14.3f}{mark}"
        )
    return "\n".join(lines)


def _choose_scale(
    scene: UnscaledScene,
    fit: RigFit | None,
    why: str,
    config: ScaleConfig,
    others: Sequence[Evidence],
) -> ScaleEstimate:
    if fit is not None:
        why = fit.no_scale
    evidence: list[Evidence] = list(others)
    if fit is not None and not why:
        evidence.insert(0, ScaleEstimate(fit.scale, fit.sigma, ScaleSource.RIG))
    else:
        evidence.insert(0, NoScale(ScaleSource.RIG, why))
    if config.metres_per_unit > 0:
        evidence.append(
            ScaleEstimate(
                config.metres_per_unit, config.metres_per_unit_sigma, ScaleSource.PARAMETER
            )
        )
    else:
        evidence.append(NoScale(ScaleSource.PARAMETER, "scale.metres_per_unit is not given"))
    chosen = choose_scale(evidence, config)
    if chosen is None:
        return ScaleEstimate(_unscaled_factor(scene), math.inf, ScaleSource.NONE)
    if fit is not None and scene.bootstrapper == "rig" and config.source == "auto":
        # The poses are in metres already; what others say makes them only less sure.
        off = abs(chosen.value - fit.scale) if chosen.source is not ScaleSource.RIG else 0.0
        return replace(chosen, value=fit.scale, sigma=math.hypot(chosen.sigma, off))
    return chosen


def _rig_frame(
    fit: RigFit, scale: ScaleEstimate, sightings: Sequence[Sighting]
) -> dict[int, Sim3]:
    """`map_from_scene` of each set: the rig's frame, or only its axes where nothing is metric."""
    if scale.value == fit.scale and not fit.no_scale:
        return fit.rig_from_scene
    used = [s for s in sightings if fit.residuals[s.camera].inlier]
    middle = np.mean([s.rig_from_camera.translation for s in used], axis=0)
    origin = middle if scale.is_metric else np.zeros(3)
    transforms = {}
    for number, t in fit.rig_from_scene.items():
        if not fit.no_scale:
            shift = scale.value / fit.scale * (t.translation - middle) + origin
        else:
            shifts = [
                (s.rig_from_camera.translation if scale.is_metric else 0.0)
                - scale.value * t.rotation @ s.scene_from_camera.translation
                for s in used
                if s.frame_set == number
            ]
            if not shifts:
                continue
            shift = np.mean(shifts, axis=0)
        transforms[number] = Sim3(scale.value, t.rotation, shift)
    return transforms


def _without_centres(residuals: Mapping[str, CameraResidual]) -> dict[str, CameraResidual]:
    return {
        name: CameraResidual(math.nan, r.rotation_rad, r.inlier) for name, r in residuals.items()
    }


def _unscaled_factor(scene: UnscaledScene) -> float:
    """Map units per scene unit that make the median depth of the points 3; 1 without points."""
    depths = [_depths(view, scene.points) for view in scene.views]
    seen = np.concatenate([*depths, np.zeros(0)])
    if not len(seen):
        return 1.0
    return UNSCALED_MEDIAN_DEPTH / float(np.median(seen))


def _depths(view: View, points: Float64) -> Float64:
    """Depths [scene units] of the points that fall into a view."""
    in_camera = view.scene_from_camera.inverse().apply(points.reshape(-1, 3))
    model = view.model.without_distortion()
    pixels = model.project(in_camera)
    with np.errstate(invalid="ignore"):
        inside = (
            (pixels > -0.5).all(axis=1)
            & (pixels[:, 0] < model.width - 0.5)
            & (pixels[:, 1] < model.height - 0.5)
        )
    return np.asarray(in_camera[inside, 2])


def _cameras(
    scene: UnscaledScene, sets: list[int], map_from_set: Mapping[int, Sim3], latest: int
) -> tuple[dict[str, CameraModel], dict[str, Rigid3]]:
    """Intrinsics and place at the time of the set `latest` of all registered cameras.

    A camera that is missing there has the place that an older set shows, for the rig is rigid:
    through the rig frame of that set, else through a camera seen in both.
    """
    by_set: dict[int, dict[str, View]] = {}
    for view, number in zip(scene.views, sets, strict=True):
        by_set.setdefault(number, {})[view.camera] = view
    scale = map_from_set[latest]
    found: dict[str, tuple[View, Rigid3]] = {}
    for name, view in by_set[latest].items():
        found[name] = (view, scale.apply_to_pose(view.scene_from_camera))
    for number in sorted(by_set, reverse=True):
        for name, view in by_set[number].items():
            if name in found:
                continue
            if number in map_from_set:
                pose = map_from_set[number].apply_to_pose(view.scene_from_camera)
                found[name] = (view, pose)
                continue
            common = next((n for n in by_set[number] if n in by_set[latest]), None)
            if common is None:
                continue
            then = by_set[number][common].scene_from_camera
            now = by_set[latest][common].scene_from_camera
            moved = now @ then.inverse() @ view.scene_from_camera
            found[name] = (view, scale.apply_to_pose(moved))
    ordered = [name for name in scene.cameras if name in found]
    return (
        {name: found[name][0].model for name in ordered},
        {name: found[name][1] for name in ordered},
    )
