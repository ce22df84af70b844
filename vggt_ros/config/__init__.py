"""Every default of the package, in one tree of frozen dataclasses.

ROS parameters, `config/default.yaml`, CLI flags and `docs/parameters.md` are all made from it.
A parameter's full name is its path in the tree with dots: `map.voxel_m`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vggt_ros.config.bootstrap import (
    CheckRigConfig,
    RigConfig,
    ScaleConfig,
    SfmConfig,
    TrajectoryConfig,
)
from vggt_ros.config.engines import (
    BACKENDS,
    PRECISIONS,
    DepthAnythingConfig,
    EngineConfig,
    VggtConfig,
)
from vggt_ros.config.inputs import (
    CameraConfig,
    FrameConfig,
    IngestConfig,
)
from vggt_ros.config.mapping import (
    AlignConfig,
    MapConfig,
    PlaneSweepConfig,
    SelfFilterConfig,
)
from vggt_ros.config.outputs import (
    CropConfig,
    ExportConfig,
    OccupancyConfig,
    PublishConfig,
)
from vggt_ros.config.parameter import parameter

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "AlignConfig",
    "CameraConfig",
    "CheckRigConfig",
    "Config",
    "CropConfig",
    "DepthAnythingConfig",
    "EngineConfig",
    "ExportConfig",
    "FrameConfig",
    "IngestConfig",
    "MapConfig",
    "OccupancyConfig",
    "PlaneSweepConfig",
    "PublishConfig",
    "RigConfig",
    "ScaleConfig",
    "SelfFilterConfig",
    "SfmConfig",
    "TrajectoryConfig",
    "VggtConfig",
    "parameter",
]


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
