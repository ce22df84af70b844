"""Last bundle adjustment and the choice of the intrinsics' model."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vggt_ros.pipeline.colmap_cameras import camera_to_colmap, group_cameras
from vggt_ros.pipeline.pycolmap_import import import_pycolmap
from vggt_ros.types import Float64, Frame

_LOG = logging.getLogger(__name__)

MAX_REPROJECTION_PX = 2.0
"""Points that fit worse after bundle adjustment are left out. SIFT is good to 0.2-0.4 px on real
photographs; what is beyond 2 px is a wrong match."""

_MIN_TRIANGULATION_DEG = 1.5
"""Points seen under a smaller angle have no depth to speak of (COLMAP's default)."""

_ROUNDS = 3
_FIRST_LOSS_PX = 1.0
_LOSS_SIGMAS = 2.0
_BOUND_SIGMAS = 8.0
"""In standard deviations of the pixels. Four images of the demo room: worst of eight sets 0.03
instead of 0.11 degrees; fountain and indoor sequences: no change."""

_MIN_VIEWS_FOR_PRINCIPAL_POINT = 4
_MAX_PRINCIPAL_SHIFT = 0.05
"""Fraction of the longer side; lenses and sensors are better centred than that."""

_EVIDENCE = 3.0
"""Factor on the penalty of the Bayesian information criterion: reprojection errors of neighbouring
points are not independent, so that the plain criterion takes too many parameters."""


@dataclass(frozen=True)
class IntrinsicsChoice:
    """Which intrinsics are estimated."""

    shared: bool
    principal_point: bool

    @property
    def label(self) -> str:
        """For the log."""
        point = " with principal point" if self.principal_point else ""
        return ("shared" if self.shared else "per camera") + point


def adjust(
    model: Any,
    frames: Sequence[Frame],
    intrinsics: bool = True,
    principal_point: bool = False,
    strict: bool = True,
) -> None:
    """Robust bundle adjustment in place, each round followed by taking out what fits badly.

    Loss (Cauchy's) and bound follow the noise of the images: a bound for the worst photographs
    lets mismatches through on sharp ones, and a few of them turn four weakly connected cameras
    by 0.1 degrees.

    Args:
        model: a pycolmap reconstruction whose image ids are places in `frames` plus one.
        frames: the images; intrinsics that they give stay as they are.
        intrinsics: refine unknown focal lengths and distortions.
        principal_point: refine unknown principal points as well.
        strict: let loss and bound follow the noise. Not before the intrinsics are about right:
            what contradicts wrong ones would be thrown out, and they would stay.
    """
    pycolmap = import_pycolmap()

    loss_px, bound_px = _FIRST_LOSS_PX, MAX_REPROJECTION_PX
    for _ in range(_ROUNDS if strict else 1):
        if not model.num_points3D() or model.num_reg_images() < 2:
            break
        options = pycolmap.BundleAdjustmentOptions()
        options.print_summary = False
        options.refine_principal_point = principal_point
        options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
        options.ceres.loss_function_scale = loss_px
        options.ceres.solver_options.num_threads = 1  # sums in a fixed order
        options.ceres.solver_options.function_tolerance = 1e-6 if strict else 1e-5
        options.ceres.solver_options.max_num_iterations = 25
        config = pycolmap.BundleAdjustmentConfig()
        for image_id in sorted(model.reg_image_ids()):
            config.add_image(image_id)
            if frames[image_id - 1].model is not None or not intrinsics:
                config.set_constant_cam_intrinsics(model.image(image_id).camera_id)
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        pycolmap.create_default_bundle_adjuster(options, config, model).solve()
        if strict:
            loss_px, bound_px = _limits_px(model)
        manager = pycolmap.ObservationManager(model)
        manager.filter_all_points3D(bound_px, _MIN_TRIANGULATION_DEG)
    model.update_point_3d_errors()


def _limits_px(model: Any) -> tuple[float, float]:
    """Scale of the loss and bound of the reprojection error that suit the noise of a model."""
    noise_px = _noise_px(reprojection_errors_px(model))
    return (
        min(max(_LOSS_SIGMAS * noise_px, 0.1), _FIRST_LOSS_PX),
        min(max(_BOUND_SIGMAS * noise_px, 0.6), MAX_REPROJECTION_PX),
    )


def _noise_px(errors: Float64) -> float:
    """Standard deviation of a pixel coordinate, from the median length of the errors."""
    if not len(errors):
        return MAX_REPROJECTION_PX
    # The median of the squared length of normal errors is 2 ln 2 variances of a coordinate.
    return float(np.median(errors)) / math.sqrt(2 * math.log(2))


def choose_intrinsics(
    model: Any, frames: Sequence[Frame], mode: str
) -> tuple[Any, IntrinsicsChoice | None]:
    """The model refined with the intrinsics that the images speak for.

    Where intrinsics are unknown, cameras of one image size may be of one make. That is decided,
    not assumed: each choice is adjusted, and more parameters must pay for themselves (Bayesian
    information criterion, Schwarz 1978).

    Args:
        model: a pycolmap reconstruction whose image ids are places in `frames` plus one.
        frames: the images.
        mode: "auto", "per_camera" or "shared".

    Returns:
        The refined model and what was chosen; None where all intrinsics were given.
    """
    unknown = [i for i in model.reg_image_ids() if frames[i - 1].model is None]
    if not unknown:
        return model, None
    choices = []
    if mode != "shared":
        choices.append(IntrinsicsChoice(False, False))
    if mode != "per_camera":
        choices.append(IntrinsicsChoice(True, False))
        if len(unknown) >= _MIN_VIEWS_FOR_PRINCIPAL_POINT:
            choices.append(IntrinsicsChoice(True, True))
    fitted = []
    for choice in choices:
        candidate = _with_cameras(model, frames, choice.shared)
        adjust(candidate, frames, True, choice.principal_point, strict=False)
        if candidate.num_points3D() and _is_plausible(candidate):
            fitted.append((choice, candidate, reprojection_errors_px(candidate)))
    if not fitted:
        return model, IntrinsicsChoice(mode != "per_camera", False)
    choice, best, _ = fitted[_least_criterion(fitted)]
    adjust(best, frames, True, choice.principal_point)
    return best, choice


def _least_criterion(fitted: Sequence[tuple[IntrinsicsChoice, Any, Float64]]) -> int:
    most = max((errors for *_, errors in fitted), key=len)
    variance = max(_noise_px(most) ** 2, 1e-12)
    criteria = []
    for choice, candidate, errors in fitted:
        # What one choice loses counts as errors at the bound.
        lost = len(most) - len(errors)
        cost = float(np.minimum(errors**2, 9 * variance).sum()) + lost * 9 * variance
        parameters = len(candidate.cameras) * (4 if choice.principal_point else 2)
        criteria.append(cost / variance + _EVIDENCE * parameters * math.log(2 * len(errors)))
        _LOG.debug("sfm: intrinsics %s: criterion %.1f", choice.label, criteria[-1])
    return int(np.argmin(criteria))


def _is_plausible(model: Any) -> bool:
    for camera in model.cameras.values():
        if camera.model.name == "PINHOLE":
            continue
        f, cx, cy, k1 = camera.params
        side = max(camera.width, camera.height)
        shift = max(abs(cx - camera.width / 2), abs(cy - camera.height / 2))
        if not (0.2 * side < f < 5 * side and abs(k1) < 1 and shift < _MAX_PRINCIPAL_SHIFT * side):
            return False
    return True


def _with_cameras(model: Any, frames: Sequence[Frame], shared: bool) -> Any:
    """A copy of a model with other groups of intrinsics, starting from the groups' medians."""
    pycolmap = import_pycolmap()

    groups = group_cameras(frames, shared)
    image_ids = sorted(model.reg_image_ids())
    members: dict[int, list[int]] = {}
    for image_id in image_ids:
        members.setdefault(groups[image_id - 1], []).append(image_id)
    copy = pycolmap.Reconstruction()
    for group, ids in sorted(members.items()):
        camera = camera_to_colmap(frames[ids[0] - 1], group)
        if frames[ids[0] - 1].model is None:
            params = [model.camera(model.image(i).camera_id).params for i in ids]
            camera.params = np.median(np.array(params), axis=0)
        copy.add_camera_with_trivial_rig(camera)
    for image_id in image_ids:
        image = model.image(image_id)
        keypoints = np.array([p.xy for p in image.points2D]).reshape(-1, 2)
        copy.add_image_with_trivial_frame(
            pycolmap.Image(
                name=image.name,
                keypoints=keypoints,
                camera_id=groups[image_id - 1],
                image_id=image_id,
            ),
            image.cam_from_world(),
        )
    for point_id in sorted(model.point3D_ids()):
        point = model.point3D(point_id)
        track = pycolmap.Track()
        for element in point.track.elements:
            track.add_element(element.image_id, element.point2D_idx)
        copy.add_point3D(point.xyz, track)
    return copy


def reprojection_errors_px(model: Any) -> Float64:
    """Distance [px] of each observation from its projected point; inf if that is behind."""
    errors = [np.zeros(0)]
    for image_id in sorted(model.reg_image_ids()):
        image = model.image(image_id)
        seen = [p for p in image.points2D if p.has_point3D()]
        if not seen:
            continue
        observed = np.array([p.xy for p in seen])
        world = np.array([model.point3D(p.point3D_id).xyz for p in seen])
        pose = image.cam_from_world().matrix()
        in_camera = world @ pose[:, :3].T + pose[:, 3]
        projected = np.asarray(model.camera(image.camera_id).img_from_cam(in_camera))
        length = np.linalg.norm(projected.reshape(-1, 2) - observed, axis=1)
        errors.append(np.nan_to_num(length, nan=np.inf))  # NaN: the point is behind the camera
    return np.concatenate(errors)
