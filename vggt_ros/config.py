"""Every default of the package, in one tree of frozen dataclasses.

ROS parameters, `config/default.yaml`, CLI flags and `docs/parameters.md` are all made from it.
A parameter's full name is its path in the tree with dots: `map.voxel_m`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


def parameter(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    runtime: bool = False,
) -> Any:
    """A field with what the documentation and the checks need.

    Args:
        default: the one default; a list is copied for each instance.
        doc: one sentence.
        unit: SI unit as it is written in the documentation.
        low: inclusive lower bound of a number.
        high: inclusive upper bound.
        choices: the only strings that are accepted.
        runtime: may be changed while mapping.
    """
    metadata = {
        "doc": doc,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "runtime": runtime,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class CameraConfig:
    """`camera.<name>.*`: where one camera's data come from."""

    image_topic: str = parameter("", "image topic; empty: <name>/image_raw")
    info_topic: str = parameter("", "CameraInfo topic; empty: <name>/camera_info")
    depth_topic: str = parameter("", "depth image topic of an RGB-D camera; empty: none")
    transport: str = parameter(
        "raw",
        "raw: sensor_msgs/Image; compressed: CompressedImage on <image_topic>/compressed",
        choices=("raw", "compressed"),
    )
    frame_id: str = parameter("", "optical frame; empty: the frame_id of the images")
    mask: str = parameter(
        "",
        "PNG of the aspect of the images, white where the robot is seen: those pixels reach "
        "neither map nor clouds nor depth images; empty: none",
    )

    def resolved(self, name: str) -> CameraConfig:
        """With the default topics of camera `name` filled in."""
        return dataclasses.replace(
            self,
            image_topic=self.image_topic or f"{name}/image_raw",
            info_topic=self.info_topic or f"{name}/camera_info",
        )


@dataclass(frozen=True)
class FrameConfig:
    """`frame.*`: names of coordinate frames."""

    map: str = parameter("map", "frame of the map")
    rig: str = parameter("rig", "frame of the rig where no TF names one")
    base: str = parameter("base_link", "robot frame that carries the cameras in the URDF")
    odom: str = parameter("", "odometry frame; empty: no odometry")
    tf_wait_ms: float = parameter(
        500.0,
        "motion tf: a set waits this long for the transform at its stamp, then it is dropped",
        unit="ms",
        low=0.0,
        high=10_000.0,
    )
    tf_history_s: float = parameter(
        10.0, "transforms of /tf are remembered this long", unit="s", low=0.1, high=600.0
    )
    prefix: str = parameter(
        "",
        "before every frame that is named here, in camera.<name>.frame_id or in the rig file, "
        "such as robot1/; frames that come with messages and TF stay as they are",
    )


@dataclass(frozen=True)
class IngestConfig:
    """`ingest.*`: from stamped images to frame sets."""

    max_skew_ms: float = parameter(
        20.0,
        "largest difference of stamps within a set",
        unit="ms",
        low=0.0,
        high=10_000.0,
        runtime=True,
    )
    queue_size: int = parameter(
        8, "images kept per camera while a set is incomplete", low=1, high=1000
    )
    min_cameras: int = parameter(
        0,
        "smallest number of cameras of a set; 0: all of them",
        low=0,
        high=16,
        runtime=True,
    )
    silent_after_s: float = parameter(
        10.0,
        "a camera without a usable image for so long is left out of the sets until it has one "
        "again; 0: it is waited for; only while min_cameras is 0",
        unit="s",
        low=0.0,
        high=3600.0,
        runtime=True,
    )
    reliability: str = parameter(
        "auto",
        "of image subscriptions: best_effort matches every driver but loses large images on a "
        "busy machine; reliable gets all from publishers that offer it; auto: reliable until a "
        "driver turns out to be best effort",
        choices=("auto", "best_effort", "reliable"),
    )
    require_calibration: bool = parameter(
        False, "wait for CameraInfo of every camera instead of estimating intrinsics"
    )
    max_width: int = parameter(
        1280, "wider images are reduced to this width when decoded", unit="px", low=64, high=8192
    )


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


BACKENDS = ("auto", "torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
"""auto, and the names of `inference.backend`."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class EngineConfig:
    """What every stage that asks a network is told of its engine."""

    engine: str = parameter("", "engine or checkpoint, with its passport beside it")
    backend: str = parameter("auto", "what runs it; auto: what its name ends in", choices=BACKENDS)
    device: str = parameter("auto", "cpu, cuda:N; auto: what the back end is built for")
    precision: str = parameter(
        "auto",
        "to compute in, where the back end can choose (torch, openvino); auto: as it is stored",
        choices=PRECISIONS,
    )
    allow_unverified: bool = parameter(
        False, "do not check the engine against its passport; the status says so"
    )


@dataclass(frozen=True)
class VggtConfig(EngineConfig):
    """`vggt.*`: the bootstrapper that asks the network VGGT."""

    sets: int = parameter(1, "frame sets that are reconstructed together", low=1, high=100)
    preprocess: str = parameter(
        "crop",
        "crop: as wide as the input, what is too high is cut; pad: every pixel, with white bars",
        choices=("crop", "pad"),
    )
    image_px: int = parameter(
        518,
        "width of the input (pad: both sides), a multiple of 14; only for engines of free size",
        unit="px",
        low=28,
        high=2044,
    )
    min_views: int = parameter(2, "fewer views that overlap are a failure", low=1, high=1600)
    min_overlap: float = parameter(
        0.1,
        "least part of a view's pixels that must lie, at the same depth, in another view, or "
        "the view is left out",
        low=0.0,
        high=1.0,
    )
    min_confidence: float = parameter(
        0.1,
        "the least sure part of all pixels, which does not go into the map",
        low=0.0,
        high=0.99,
    )


@dataclass(frozen=True)
class DepthAnythingConfig(EngineConfig):
    """`depth_anything.*`: depth of single images by the network Depth Anything."""

    contexts: int = parameter(
        1, "batches that the engine computes at the same time", low=1, high=16
    )
    image_px: int = parameter(
        518,
        "shorter side of the input, a multiple of 14; only for engines of free size",
        unit="px",
        low=28,
        high=2044,
    )
    width: int = parameter(
        480, "depth is handed on at this width; 0: that of the images", unit="px", low=0, high=8192
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
class PlaneSweepConfig:
    """`plane_sweep.*`: classical multi-view stereo on the known poses."""

    width: int = parameter(480, "images are reduced to this width", unit="px", low=64, high=4096)
    planes: int = parameter(
        96,
        "most hypotheses in inverse depth; fewer where they would be less than a pixel apart",
        low=8,
        high=512,
    )
    max_sources: int = parameter(4, "source views per reference view", low=1, high=15)
    min_depth: float = parameter(
        0.0, "nearest plane; 0: from the bootstrap points", unit="map units", low=0.0
    )
    max_depth: float = parameter(
        0.0, "farthest plane; 0: from the bootstrap points", unit="map units", low=0.0
    )
    max_outlier_chance: float = parameter(
        0.27,
        "pixels become holes whose chance of being off by more than 25 % of the depth is higher",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    min_confidence: float = parameter(
        0.0,
        "pixels become holes whose chance of being within 5 % of the true depth is lower",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    map_confidence: float = parameter(
        0.55,
        "pixels whose chance of being within 5 % of the true depth is lower are published but do "
        "not go into the map",
        low=0.0,
        high=1.0,
        runtime=True,
    )


@dataclass(frozen=True)
class AlignConfig:
    """`align.*`: depth to map."""

    model: str = parameter(
        "auto",
        "depth z from a prediction v (depth, or 1 / disparity); scale: z = s*v, of disparities "
        "1/z = s/v; scale_shift: z = s*v + t; invdepth_scale_shift: 1/z = s/v + t; auto: by the "
        "kind of the prediction",
        choices=("auto", "scale", "scale_shift", "invdepth_scale_shift"),
    )
    min_pixels: int = parameter(200, "fewer compared pixels reject the fit", low=10)
    min_inlier_fraction: float = parameter(
        0.5, "fewer inliers reject the fit", low=0.0, high=1.0, runtime=True
    )
    inlier_threshold: float = parameter(
        0.05, "relative depth error of an inlier", low=1e-4, high=1.0
    )
    max_residual: float = parameter(
        0.1, "larger median relative error rejects the fit", low=0.0, high=10.0, runtime=True
    )
    smoothing: float = parameter(
        0.3,
        "least weight of a new fit against the camera's filtered one; 1: no filter",
        low=0.0,
        high=1.0,
    )
    max_disagreement: float = parameter(
        0.1,
        "median relative difference from the depth of another camera that sees the same; who "
        "contradicts more cameras is held or rejected; 0: not compared",
        low=0.0,
        high=0.9,
        runtime=True,
    )
    calibration_file: str = parameter(
        "",
        "JSON {camera: [scale, shift]}: read at the start if it exists, written at the end; "
        "empty: none",
    )
    seed: int = parameter(0, "seed of RANSAC", low=0)


@dataclass(frozen=True)
class MapConfig:
    """`map.*`: the map. Lengths are map units: metres where the scale is known."""

    kind: str = parameter(
        "surfel",
        "surfel: points with normal and size, fast; tsdf: a signed distance field, needs Open3D",
        choices=("surfel", "tsdf"),
    )
    tsdf_device: str = parameter(
        "cpu", "where the TSDF lives and is computed", choices=("cpu", "cuda")
    )
    voxel_m: float = parameter(
        0.02, "surfels of one cell of this size are merged", unit="m", low=1e-4, high=10.0
    )
    budget_mb: float = parameter(
        512.0, "memory of the map; the least certain and oldest go first", unit="MB", low=1.0
    )
    max_depth_m: float = parameter(
        20.0, "farther depth is not fused", unit="m", low=0.1, runtime=True
    )
    max_incidence_deg: float = parameter(
        80.0, "flatter views are not fused", unit="deg", low=10.0, high=90.0
    )
    carve: bool = parameter(True, "remove surfels that later depth sees through", runtime=True)
    min_hits: int = parameter(
        2, "surfels seen less often are left out of clouds and exports", low=1, runtime=True
    )
    min_confidence: float = parameter(
        0.0, "surfels below are left out of clouds and exports", low=0.0, runtime=True
    )
    truncation_voxels: float = parameter(
        6.0,
        "half width of the band of a TSDF in which distances are kept; the noise of a depth must "
        "fit into it",
        unit="voxels",
        low=1.0,
        high=32.0,
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
class PublishConfig:
    """`publish.*`: what leaves the mapper and how often."""

    map_rate_hz: float = parameter(1.0, "map clouds", unit="Hz", low=0.01, high=100, runtime=True)
    map_max_points: int = parameter(500_000, "cap of one map cloud", low=1000, runtime=True)
    map_voxel_m: float = parameter(
        0.0, "thins the published map; 0: as it is", unit="m", low=0.0, runtime=True
    )
    points: bool = parameter(True, "publish ~/points of the latest set", runtime=True)
    depth: bool = parameter(True, "publish depth images", runtime=True)
    status_rate_hz: float = parameter(2.0, "~/status", unit="Hz", low=0.1, high=100, runtime=True)
    depth_unscaled: bool = parameter(
        False,
        "publish depth images while the scale is unknown too; whoever reads them takes their "
        "numbers for metres (REP-118), which they are not",
        runtime=True,
    )
    odom_rate_hz: float = parameter(
        10.0, "map -> odom on /tf, where there is odometry", unit="Hz", low=0.1, high=1000.0
    )
    odom_ahead_ms: float = parameter(
        200.0,
        "map -> odom is stamped this much later than now, so that it is known until the next",
        unit="ms",
        low=0.0,
        high=10_000.0,
    )
    update_rate_hz: float = parameter(
        2.0, "~/map_update: changed blocks of the map", unit="Hz", low=0.01, high=100, runtime=True
    )
    update_max_points: int = parameter(
        200_000, "cap of one ~/map_update; the rest waits for the next", low=1000, runtime=True
    )
    update_voxel_m: float = parameter(
        0.0,
        "thins ~/map_update: one point of a block per cell; 0: as it is",
        unit="m",
        low=0.0,
        runtime=True,
    )
    update_complete_period_s: float = parameter(
        30.0,
        "~/map_update begins anew with the whole map this often, for receivers that lost a "
        "message; 0: only for new subscribers",
        unit="s",
        low=0.0,
        high=86_400.0,
        runtime=True,
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


@dataclass(frozen=True)
class ExportConfig:
    """`export.*`: where services may read and write."""

    folder: str = parameter(
        "",
        "services read and write in this folder only, links resolved; relative paths lie in it; "
        "empty: anywhere",
    )


@dataclass(frozen=True)
class CropConfig:
    """`crop.*`: a box in the map frame; what lies outside is not published (but mapped)."""

    enabled: bool = parameter(False, "crop ~/map, ~/points and ~/map_update", runtime=True)
    min_x: float = parameter(-10.0, "lower corner", unit="map units", runtime=True)
    min_y: float = parameter(-10.0, "lower corner", unit="map units", runtime=True)
    min_z: float = parameter(-10.0, "lower corner", unit="map units", runtime=True)
    max_x: float = parameter(10.0, "upper corner", unit="map units", runtime=True)
    max_y: float = parameter(10.0, "upper corner", unit="map units", runtime=True)
    max_z: float = parameter(10.0, "upper corner", unit="map units", runtime=True)


@dataclass(frozen=True)
class SelfFilterConfig:
    """`self_filter.*`: a box in the rig frame that holds the robot; nothing in it is mapped."""

    enabled: bool = parameter(False, "leave out depth within the box", runtime=True)
    min_x: float = parameter(-0.5, "lower corner", unit="m", runtime=True)
    min_y: float = parameter(-0.5, "lower corner", unit="m", runtime=True)
    min_z: float = parameter(-0.5, "lower corner", unit="m", runtime=True)
    max_x: float = parameter(0.5, "upper corner", unit="m", runtime=True)
    max_y: float = parameter(0.5, "upper corner", unit="m", runtime=True)
    max_z: float = parameter(0.5, "upper corner", unit="m", runtime=True)


@dataclass(frozen=True)
class OccupancyConfig:
    """`occupancy.*`: the grid for navigation, `~/occupancy`; metric maps only."""

    enabled: bool = parameter(
        True, "publish ~/occupancy; it is computed only while somebody subscribes", runtime=True
    )
    rate_hz: float = parameter(1.0, "grids", unit="Hz", low=0.01, high=20, runtime=True)
    resolution_m: float = parameter(0.05, "edge of a cell", unit="m", low=0.005, high=5.0)
    height_from: str = parameter(
        "floor",
        "where heights are measured from; floor: the lowest large level surface of the map; map: "
        "z = 0 of the map frame",
        choices=("floor", "map"),
        runtime=True,
    )
    min_height_m: float = parameter(
        0.1, "what is lower is floor", unit="m", low=-100.0, high=100.0, runtime=True
    )
    max_height_m: float = parameter(
        1.8, "what is higher passes over the robot", unit="m", low=-100.0, high=100.0, runtime=True
    )
    min_points: int = parameter(
        3,
        "points between the heights, in a cell and its neighbours, that make it occupied",
        low=1,
        runtime=True,
    )
    max_size_m: float = parameter(
        200.0, "largest edge of the grid; what lies beyond is left out", unit="m", low=1.0
    )


@dataclass(frozen=True)
class Config:
    """All parameters. Top-level fields choose implementations; groups tune them."""

    cameras: list[str] = parameter([], "camera names, in the order of views")
    rig_file: str = parameter("", "RIG.yaml with the cameras; empty: bag, topics and TF only")
    bootstrap: str = parameter(
        "sfm",
        "sfm: structure from motion; rig: poses are given by the rig file or TF; vggt: the "
        "network of vggt.engine",
        choices=("sfm", "rig", "vggt"),
    )
    depth: str = parameter(
        "plane_sweep",
        "what gives depth between bootstraps; plane_sweep: the overlap of the cameras; "
        "depth_anything: the network of depth_anything.engine, for each image alone",
        choices=("plane_sweep", "depth_anything"),
    )
    motion: str = parameter(
        "static",
        "static: the cameras stand still in the map; tf: TF says where the rig is at every stamp "
        "(frame.odom, or the map frame of another localiser); estimate: found from the images",
        choices=("static", "tf", "estimate"),
    )
    frame: FrameConfig = field(default_factory=FrameConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    sfm: SfmConfig = field(default_factory=SfmConfig)
    rig: RigConfig = field(default_factory=RigConfig)
    vggt: VggtConfig = field(default_factory=VggtConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    plane_sweep: PlaneSweepConfig = field(default_factory=PlaneSweepConfig)
    depth_anything: DepthAnythingConfig = field(default_factory=DepthAnythingConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    map: MapConfig = field(default_factory=MapConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    camera: dict[str, CameraConfig] = field(default_factory=dict)
    export: ExportConfig = field(default_factory=ExportConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    self_filter: SelfFilterConfig = field(default_factory=SelfFilterConfig)
    occupancy: OccupancyConfig = field(default_factory=OccupancyConfig)
    check_rig: CheckRigConfig = field(default_factory=CheckRigConfig)
