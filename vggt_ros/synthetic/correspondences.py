"""Rigs before random points: what structure from motion finds, without rendering an image.

The pixels are projections with noise; the poses come from the same bundle adjustment and the same
covariance as those of photographs (pycolmap, `sfm_covariance`). A scene takes some 20 ms, so that
the honesty of a sigma can be tried on hundreds of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.colmap_cameras import COLMAP_PIXEL_OFFSET
from vggt_ros.pipeline.pycolmap_import import import_pycolmap, quiet_and_seeded
from vggt_ros.pipeline.sfm_covariance import Observations, pose_covariance
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import Features, Float64, UnscaledScene, View

MODEL = CameraModel(640, 480, 450.0, 450.0, 319.5, 239.5)

_FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""rig_from_camera of a camera that looks along x of the rig (REP-103)."""
_LEAST_VIEWS = 2
_LEAST_POINTS = 20


@dataclass(frozen=True)
class Noise:
    """Standard deviations per axis of what is between the truth and the measurement.

    A real lens is not exactly its model and features near each other err alike: `lens_px` is a
    smooth field over the image, one per camera, the same in all sets.
    """

    pixel_px: float = 0.5
    lens_px: float = 0.3
    rig_rotation_rad: float = np.deg2rad(0.05)
    """Of what is known of the rig, against where its cameras are."""
    rig_centre: float = 0.001
    """The same of the centres, over the rig's size."""


@dataclass(frozen=True, eq=False)
class RigScene:
    """A reconstruction and the truth behind it."""

    scene: UnscaledScene
    rig: Rig
    """As it is known: with calibration noise, without what was bumped."""
    metres_per_unit: float
    """The truth."""
    truth: dict[str, Rigid3]
    """`rig_from_camera` as the cameras really are."""


def random_rig(
    random: np.random.Generator, cameras: int, size_m: float = 0.5
) -> dict[str, Rigid3]:
    """`rig_from_camera` of cameras that look forward, up to 12 degrees to the side."""
    centres = random.uniform(-1, 1, (cameras, 3)) * [0.3, 1.0, 0.3]
    spread = np.linalg.norm(centres[:, None] - centres[None], axis=2).max()
    turns = random.uniform(-0.2, 0.2, (cameras, 3)) * [0.5, 1.0, 0.5]
    return {
        f"cam{k}": Rigid3(_FORWARD, centre * size_m / spread) @ Rigid3.from_rotation_vector(turn)
        for k, (centre, turn) in enumerate(zip(centres, turns, strict=True))
    }


def rig_scene(
    random: np.random.Generator,
    truth: dict[str, Rigid3],
    noise: Noise | None = None,
    *,
    points: int = 300,
    sets: int = 1,
    calibrated: dict[str, Rigid3] | None = None,
) -> RigScene:
    """Reconstruct random points, 2 to 6 m before the rig, from noisy pixels.

    Args:
        random: all chance is from it.
        truth: `rig_from_camera` as the cameras really are.
        noise: None: the defaults.
        points: how many; each is seen by the cameras into whose image it falls.
        sets: places from which the rig looks, up to half a metre apart.
        calibrated: what the calibration was made of; None: the truth. Its noise is added.
    """
    noise = noise or Noise()
    rig = known_rig(random, calibrated or truth, noise)
    cloud = np.array([4.0, 0.0, 0.0]) + random.uniform(-1, 1, (points, 3)) * [2.0, 3.0, 2.0]
    models = [MODEL] * len(truth)
    fields = [_LensField(random, noise.lens_px) for _ in truth]
    poses, stamps, names, pixels, rows = [], [], [], [], []
    for number in range(sets):
        turn = random.uniform(-0.05, 0.05, 3) * (number > 0)
        world_from_rig = Rigid3.from_rotation_vector(
            turn, random.uniform(-0.25, 0.25, 3) * (number > 0)
        )
        for (name, rig_from_camera), model, field in zip(
            truth.items(), models, fields, strict=True
        ):
            pose = world_from_rig @ rig_from_camera
            at = model.project(pose.inverse().apply(cloud))
            at = at + field.at(at) + random.normal(size=at.shape) * noise.pixel_px
            seen = np.asarray(((at > 0) & (at < np.array(model.size) - 1)).all(axis=1))
            poses.append(pose)
            stamps.append(number * 10**9)
            names.append(name)
            pixels.append(at)
            rows.append(seen)
    enough = np.asarray(np.sum(rows, axis=0) >= _LEAST_VIEWS)
    cloud = cloud[enough]
    seen_rows = [np.flatnonzero(r[enough]) for r in rows]
    seen_pixels = [p[enough][r] for p, r in zip(pixels, seen_rows, strict=True)]
    if len(cloud) < _LEAST_POINTS:
        raise ValueError(f"synthetic rig: {len(cloud)} points are seen twice, too few")
    found, cloud = _bundle_adjusted(poses, models * sets, cloud, seen_rows, seen_pixels)
    scene_from_rig = Sim3(
        float(np.exp(random.normal())),
        Rigid3.from_rotation_vector(random.normal(size=3)).rotation,
        random.normal(size=3),
    )
    scene = _scene(
        [scene_from_rig.apply_to_pose(p) for p in found],
        scene_from_rig.apply(cloud),
        (names, stamps, models * sets),
        seen_rows,
        seen_pixels,
    )
    return RigScene(scene, rig, 1 / scene_from_rig.scale, dict(truth))


def known_rig(random: np.random.Generator, poses: dict[str, Rigid3], noise: Noise) -> Rig:
    """The rig as a calibration with noise has found it."""
    centres = np.array([pose.translation for pose in poses.values()])
    size = float(np.linalg.norm(centres[:, None] - centres[None], axis=2).max())
    cameras = []
    for name, pose in poses.items():
        turn = random.normal(size=3) * noise.rig_rotation_rad
        shift = random.normal(size=3) * noise.rig_centre * size
        rotation = (pose @ Rigid3.from_rotation_vector(turn)).rotation
        known = Rigid3(rotation, pose.translation + shift)
        cameras.append(
            RigCamera(name, frame_id=f"{name}_optical", model=MODEL, rig_from_camera=known)
        )
    return Rig(tuple(cameras), "base_link")


def bumped(pose: Rigid3, random: np.random.Generator, centre_m: float, angle_deg: float) -> Rigid3:
    """A camera that was moved and turned by so much, in any direction."""
    shift, axis = (v / np.linalg.norm(v) for v in random.normal(size=(2, 3)))
    turned = pose @ Rigid3.from_rotation_vector(axis * np.deg2rad(angle_deg))
    return Rigid3(turned.rotation, pose.translation + shift * centre_m)


class _LensField:
    """A smooth displacement over the image: a quadratic polynomial in both axes."""

    def __init__(self, random: np.random.Generator, sigma_px: float) -> None:
        # Legendre polynomials up to the third degree without those that a pose can imitate
        self._coefficients = random.normal(size=(2, 4, 4)) * sigma_px
        degree = np.add.outer(np.arange(4), np.arange(4))
        self._coefficients[:, (degree < 2) | (degree > 3)] = 0.0

    def at(self, pixels: Float64) -> Float64:
        x, y = np.clip(2 * pixels / np.array(MODEL.size) - 1, -1, 1).T
        return np.stack(
            [np.polynomial.legendre.legval2d(x, y, c) for c in self._coefficients], axis=1
        )


def _bundle_adjusted(
    poses: Sequence[Rigid3],
    models: Sequence[CameraModel],
    points: Float64,
    rows: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int64]]],
    pixels: Sequence[Float64],
) -> tuple[list[Rigid3], Float64]:
    """`world_from_camera` and points after pycolmap's bundle adjustment from the truth."""
    pycolmap = import_pycolmap()
    with quiet_and_seeded(0):
        model = pycolmap.Reconstruction()
        place = [np.full(len(points), -1, np.int64) for _ in poses]
        for k, (pose, camera) in enumerate(zip(poses, models, strict=True)):
            place[k][rows[k]] = np.arange(len(rows[k]))
            model.add_camera_with_trivial_rig(
                pycolmap.Camera(
                    model="PINHOLE",
                    width=camera.width,
                    height=camera.height,
                    params=[
                        camera.fx,
                        camera.fy,
                        camera.cx + COLMAP_PIXEL_OFFSET,
                        camera.cy + COLMAP_PIXEL_OFFSET,
                    ],
                    camera_id=k + 1,
                )
            )
            image = pycolmap.Image(
                name=str(k),
                keypoints=pixels[k] + COLMAP_PIXEL_OFFSET,
                camera_id=k + 1,
                image_id=k + 1,
            )
            model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose.inverse().matrix[:3]))
        for row, point in enumerate(points):
            track = pycolmap.Track()
            for k in range(len(poses)):
                if place[k][row] >= 0:
                    track.add_element(k + 1, int(place[k][row]))
            model.add_point3D(point, track)
        options = pycolmap.BundleAdjustmentOptions()
        options.print_summary = False
        options.refine_focal_length = options.refine_extra_params = False
        config = pycolmap.BundleAdjustmentConfig()
        for k in range(len(poses)):
            config.add_image(k + 1)
            config.set_constant_cam_intrinsics(k + 1)
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        pycolmap.create_default_bundle_adjuster(options, config, model).solve()
        found = [
            Rigid3.from_matrix(model.image(k + 1).cam_from_world().matrix()).inverse()
            for k in range(len(poses))
        ]
        moved = np.array([model.point3D(i).xyz for i in sorted(model.point3D_ids())])
    # the gauge is free: back to the truth's, so that the truth of the scale is known
    from vggt_ros.geometry.robust import fit_similarity

    back = fit_similarity(moved, points)
    return [back.apply_to_pose(pose) for pose in found], back.apply(moved)


def _scene(
    poses: Sequence[Rigid3],
    points: Float64,
    views: tuple[Sequence[str], Sequence[int], Sequence[CameraModel]],
    rows: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int64]]],
    pixels: Sequence[Float64],
) -> UnscaledScene:
    names, stamps, models = views
    camera_from_scene = [pose.inverse() for pose in poses]
    errors = [
        model.project(pose.apply(points[r])) - p
        for model, pose, r, p in zip(models, camera_from_scene, rows, pixels, strict=True)
    ]
    observations = Observations(
        np.array([pose.matrix[:3] for pose in camera_from_scene]),
        points,
        list(rows),
        errors,
        np.array([[model.fx, 0.0] for model in models]),
        [-1] * len(poses),
    )
    found = tuple(
        View(name, stamp, model, pose, features=Features(r, p))
        for name, stamp, model, pose, r, p in zip(
            names, stamps, models, poses, rows, pixels, strict=True
        )
    )
    colours = np.zeros((len(points), 3), np.uint8)
    return UnscaledScene(
        found, points, colours, (), "sfm", pose_covariance=pose_covariance(observations)
    )
