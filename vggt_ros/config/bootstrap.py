"""Where the cameras are and what a metre is."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.config.parameter import parameter


@dataclass(frozen=True)
class SfmConfig:
    """`sfm.*`: the classical bootstrapper."""

    sets: int = parameter(1, "frame sets that are reconstructed together", low=1, high=100)
    min_views: int = parameter(2, "fewer registered views are a failure", low=2, high=1600)
    min_points: int = parameter(50, "fewer triangulated points are a failure", low=4)
    max_image_px: int = parameter(
        1600, "longer sides are reduced before features are sought", unit="px", low=160, high=8192
    )
    max_features: int = parameter(8192, "SIFT features per image", low=64, high=65536)
    min_tri_angle_deg: float = parameter(
        4.0, "smallest angle between rays of the first pair", unit="deg", low=0.1, high=45.0
    )
    intrinsics: str = parameter(
        "auto",
        "unknown intrinsics: per_camera; shared by all images of one size; auto: what fits",
        choices=("auto", "per_camera", "shared"),
    )
    retry_period_s: float = parameter(
        2.0, "shortest time between two tries", unit="s", low=0.0, high=600.0
    )
    seed: int = parameter(0, "seed of RANSAC; the same images give the same poses", low=0)


@dataclass(frozen=True)
class RigConfig:
    """`rig.*`: the bootstrapper that takes the poses from the rig."""

    refine: bool = parameter(
        False, "fit the given poses to the images, each within the two sigmas below"
    )
    rotation_sigma_deg: float = parameter(
        1.0, "how well the given rotations are known", unit="deg", low=1e-3, high=45.0
    )
    centre_sigma_m: float = parameter(
        0.005, "how well the given places are known", unit="m", low=1e-6, high=10.0
    )


@dataclass(frozen=True)
class ScaleConfig:
    """`scale.*`: where metres come from."""

    source: str = parameter(
        "auto",
        "auto: all that there are, fused (docs/scale.md); else only the one that is named",
        choices=(
            "auto",
            "rig",
            "odometry",
            "depth_camera",
            "metric_model",
            "parameter",
            "none",
        ),
    )
    metres_per_unit: float = parameter(
        0.0, "metres per scene unit for source parameter; 0: not given", unit="m", low=0.0
    )
    metres_per_unit_sigma: float = parameter(
        0.0, "standard deviation of metres_per_unit", unit="m", low=0.0
    )
    max_rotation_residual_deg: float = parameter(
        5.0, "a camera turned farther from its place on the rig is an outlier", unit="deg", low=0.0
    )
    max_centre_residual: float = parameter(
        0.1, "a camera farther from its place is an outlier; fraction of the rig's size", low=0.0
    )
    require_metric: bool = parameter(False, "publish nothing while the scale is unknown")
    depth_camera_sigma: float = parameter(
        0.01,
        "standard deviation of what all depths of a depth camera are too long or too short by, "
        "as a fraction",
        low=0.0,
        high=1.0,
    )
    odometry_sigma: float = parameter(
        0.02,
        "standard deviation of what all distances of the odometry are too long or too short by, "
        "as a fraction",
        low=0.0,
        high=1.0,
    )
    metric_model_sigma: float = parameter(
        0.3,
        "standard deviation of what all depths of a network of metric depth are too long or too "
        "short by, as a fraction",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True)
class CheckRigConfig:
    """`check_rig.*`: are the cameras still where TF or the rig file says."""

    period_s: float = parameter(
        0.0, "a check in the background this often; 0: only on request", unit="s", low=0.0
    )
    sets: int = parameter(1, "newest frame sets that a check uses", low=1, high=16)
    warn_rotation_deg: float = parameter(
        0.5, "a camera that is turned farther is a warning", unit="deg", low=0.0, high=180.0
    )
    warn_centre_m: float = parameter(
        0.01, "a camera that is farther from its place is a warning", unit="m", low=0.0
    )
    error_rotation_deg: float = parameter(
        1.0, "a camera that is turned farther is an error", unit="deg", low=0.0, high=180.0
    )
    error_centre_m: float = parameter(
        0.03, "a camera that is farther from its place is an error", unit="m", low=0.0
    )
    significance: float = parameter(
        4.0,
        "a camera is as good as in its place if its errors explain it with the chance of so many "
        "standard deviations",
        low=1.0,
        high=100.0,
    )


@dataclass(frozen=True)
class TrajectoryConfig:
    """`trajectory.*`: keyframes, windows and loops of a rig that moves (`motion`)."""

    window_views: int = parameter(12, "images that are reconstructed together", low=2, high=200)
    shared_views: int = parameter(
        4, "images that a window shares with the one before", low=1, high=100
    )
    min_displacement: float = parameter(
        0.03,
        "sets whose features have moved less are no keyframes; median, fraction of the image's "
        "width",
        low=0.0,
        high=1.0,
    )
    max_overlap: float = parameter(
        0.3,
        "a set in which a smaller part of the features is found again is a keyframe too",
        low=0.0,
        high=1.0,
    )
    min_loop_matches: int = parameter(
        40, "features, of 300, that must agree for a place of long ago", low=8, high=300
    )
    max_loops: int = parameter(2, "loops that are tried after one window", low=0, high=100)
    calibration_views: int = parameter(
        16,
        "unknown intrinsics are found from so many images, spread over the keyframes; again when "
        "those are twice as many",
        low=2,
        high=200,
    )
    correct_voxels: float = parameter(
        1.0,
        "the map is made anew from the kept depth where loops move part of it by more voxels",
        low=0.0,
        high=1e6,
    )
