"""What leaves the mapper."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.config.parameter import parameter


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
class ExportConfig:
    """`export.*`: where services may read and write."""

    folder: str = parameter(
        "",
        "services read and write in this folder only, links resolved; relative paths lie in it; "
        "empty: anywhere",
    )
