"""Depth, its alignment, and the map."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.config.parameter import parameter


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
        512.0,
        "memory of the map; the least certain and oldest go first. What a moving rig keeps "
        "besides counts, too (docs/moving_rigs.md)",
        unit="MB",
        low=1.0,
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
class SelfFilterConfig:
    """`self_filter.*`: a box in the rig frame that holds the robot; nothing in it is mapped."""

    enabled: bool = parameter(False, "leave out depth within the box", runtime=True)
    min_x: float = parameter(-0.5, "lower corner", unit="m", runtime=True)
    min_y: float = parameter(-0.5, "lower corner", unit="m", runtime=True)
    min_z: float = parameter(-0.5, "lower corner", unit="m", runtime=True)
    max_x: float = parameter(0.5, "upper corner", unit="m", runtime=True)
    max_y: float = parameter(0.5, "upper corner", unit="m", runtime=True)
    max_z: float = parameter(0.5, "upper corner", unit="m", runtime=True)
