"""What one stage hands to the next: small frozen dataclasses.

Frames: `scene` is where a bootstrapper put its cameras, of arbitrary scale; `map` is the frame
that is published, z up. Cameras are optical frames (x right, y down, z forward). Depth is along
z, float32, NaN where invalid. Stamps are integers of nanoseconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel, Rigid3, Sim3

Image = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StampedImage:
    """One image as it came in, not yet decoded.

    `data` is either compressed bytes (`encoding` "jpeg" or "png") or an array with the ROS
    encoding of that name ("rgb8", "bgr8", "mono8", ...), (H, W) or (H, W, C).
    """

    camera: str
    stamp_ns: int
    data: bytes | NDArray[np.generic]
    encoding: str
    frame_id: str = ""


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded image: RGB (H, W, 3), undistorted where `model` is given.

    `model` is None until the intrinsics are known; then it has no distortion and the size of
    the image.
    """

    camera: str
    stamp_ns: int
    rgb: Image
    model: CameraModel | None = None
    depth_m: Float32 | None = None
    """What a depth camera saw in the same pixels: (H, W) [m] along z, NaN where it saw nothing."""


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Images of one instant, in the fixed camera order; cameras may be missing."""

    stamp_ns: int
    frames: tuple[Frame, ...]
    world_from_rig: Rigid3 | None = None
    """Where others (odometry, another localiser) say the rig was at `stamp_ns`, in their frame;
    None where nobody says."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that are here."""
        return tuple(frame.camera for frame in self.frames)

    def frame(self, camera: str) -> Frame:
        """The frame of a camera; KeyError if it is missing."""
        for frame in self.frames:
            if frame.camera == camera:
                return frame
        raise KeyError(camera)


@dataclass(frozen=True, eq=False)
class Features:
    """Where one camera saw points of a scene: rows (K,) of its points, and pixels (K, 2).

    The pixels are those at which the features were found, not projections.
    """

    rows: NDArray[np.int64]
    pixels: Float64


@dataclass(frozen=True, eq=False)
class View:
    """One registered image of an `UnscaledScene`.

    `depth` (H, W) [scene units], `confidence` (H, W) in [0, 1] and the image `rgb` (H, W, 3), at
    the size of `depth_model`, where the bootstrapper is dense; `features`
    where it matches features.
    """

    camera: str
    stamp_ns: int
    model: CameraModel
    scene_from_camera: Rigid3
    depth: Float32 | None = None
    confidence: Float32 | None = None
    depth_model: CameraModel | None = None
    rgb: Image | None = None
    features: Features | None = None


@dataclass(frozen=True, eq=False)
class UnscaledScene:
    """What a bootstrapper found; the unit of length is arbitrary.

    `points` (M, 3) in scene, `colours` (M, 3) RGB; `failed` names the cameras that could not
    be registered. Where the poses were given (`rig` bootstrapper) they are those of the rig and
    `scene` is the rig frame.
    """

    views: tuple[View, ...]
    points: Float64
    colours: Image
    failed: tuple[str, ...]
    bootstrapper: str
    statistics: dict[str, float] = field(default_factory=dict)
    pose_covariance: Float64 | None = None
    """(6V, 6V) in the order of `views`: centre [scene units], along the axes of the scene, and
    rotation [rad], about the axes of the camera, with the points held as a whole; None where
    the bootstrapper does not know."""

    def view(self, camera: str) -> View:
        """The newest view of a camera."""
        found = [view for view in self.views if view.camera == camera]
        if not found:
            raise KeyError(camera)
        return max(found, key=lambda view: view.stamp_ns)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Registered cameras in the order of their first view."""
        return tuple(dict.fromkeys(view.camera for view in self.views))


class ScaleSource(str, enum.Enum):
    """Where the metre comes from."""

    RIG = "rig"
    ODOMETRY = "odometry"
    DEPTH_CAMERA = "depth_camera"
    METRIC_MODEL = "metric_model"
    PARAMETER = "parameter"
    NONE = "none"


@dataclass(frozen=True)
class ScaleEstimate:
    """Metres per scene unit, its standard deviation (same unit) and its source.

    With source NONE the map has no metric unit, `value` is the factor that was applied for
    numerical convenience and `sigma` is infinite.
    """

    value: float
    sigma: float
    source: ScaleSource
    sources: tuple[ScaleSource, ...] = ()
    """All that were fused, the surest first, which is `source`; empty: `source` alone."""
    contradiction: str = ""
    """One sentence that names the sources that do not fit the others; empty: all agree."""

    @property
    def source_name(self) -> str:
        """The source as it is published: "rig", "rig+depth_camera", ..., "none"."""
        return "+".join(source.value for source in self.sources or (self.source,))

    @property
    def is_metric(self) -> bool:
        """Whether lengths are metres."""
        return self.source is not ScaleSource.NONE

    @property
    def unit(self) -> str:
        """The unit of length as it is shown to people."""
        return "m" if self.is_metric else "unscaled"

    def __str__(self) -> str:
        """One line for headers of files and for people."""
        if not self.is_metric:
            return "unknown: lengths are not metres"
        return f"{self.value:.6g} +- {self.sigma:.2g} m per scene unit, from {self.source_name}"


def unscaled_frame(frame: str) -> str:
    """What the map's frame is called where lengths are not metres.

    Who expects metres in `frame` (navigation, another localiser) must not get anything else.
    """
    return f"{frame}_unscaled"


@dataclass(frozen=True)
class CameraResidual:
    """How far a found camera is from where the rig says it is."""

    centre: float
    """Distance of the centres [map units]."""
    rotation_rad: float
    inlier: bool


@dataclass(frozen=True, eq=False)
class AlignedScene:
    """The scene in the `map` frame (z up). Its unit is the metre only if `scale.is_metric`."""

    cameras: dict[str, CameraModel]
    map_from_camera: dict[str, Rigid3]
    points_in_map: Float64
    colours: Image
    scale: ScaleEstimate
    map_from_scene: Sim3
    residuals: dict[str, CameraResidual]
    up_source: str
    """What made z point up: "rig", "tf", "gravity", "ground plane", "cameras" or "none"."""
    failed: tuple[str, ...]
    bootstrapper: str
    map_from_rig: Rigid3 | None = None
    features: dict[str, Features] = field(default_factory=dict)
    """Of `points_in_map`, by camera, where the bootstrapper matches features."""


class DepthKind(str, enum.Enum):
    """What the numbers of a `DepthPrediction` mean; it decides the alignment model."""

    DISPARITY = "disparity"
    """Affine-invariant inverse depth: 1/z = s*d + t."""
    RELATIVE_DEPTH = "relative_depth"
    """Affine-invariant depth: z = s*d + t."""
    METRIC_DEPTH = "metric_depth"
    """Depth in metres of a model's belief: z = s*d."""
    TRIANGULATED = "triangulated"
    """Depth in map units from known poses: z = d; checked against the map, never changed."""


@dataclass(frozen=True, eq=False)
class DepthPrediction:
    """Depth of one image before alignment.

    `values` (H, W) float32, NaN invalid, meaning by `kind`; `confidence` (H, W) in [0, 1];
    both at the size of `model`, which has no distortion. `rgb` (H, W, 3) is the image at that
    size.
    """

    camera: str
    stamp_ns: int
    kind: DepthKind
    values: Float32
    confidence: Float32
    model: CameraModel
    rgb: Image


@dataclass(frozen=True)
class DepthAlignment:
    """The fit of one prediction to the map, and whether it was accepted."""

    camera: str
    kind: DepthKind
    scale: float
    shift: float
    inlier_fraction: float
    residual: float
    """Median |relative depth error| of the pixels compared with the map; NaN without any."""
    compared_pixels: int
    accepted: bool
    reason: str = ""
    model: str = ""
    """How scale and shift are meant (`align.model`); empty for depth that is not fitted."""


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Depth [map units] ready to be fused or published."""

    camera: str
    stamp_ns: int
    depth: Float32
    confidence: Float32
    rgb: Image
    model: CameraModel
    map_from_camera: Rigid3
    alignment: DepthAlignment


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points (N, 3) float32 in `frame`, with RGB colours and, where known, the rest."""

    points: Float32
    colours: Image
    normals: Float32 | None = None
    confidence: Float32 | None = None
    frame: str = "map"
    is_metric: bool = True

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class Rendering:
    """A map seen by a camera: depth (H, W) NaN where empty, and what else is asked for."""

    depth: Float32
    rgb: Image | None = None
    normals_in_map: Float32 | None = None
    confidence: Float32 | None = None
