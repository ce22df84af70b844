"""A textured world in the `map` frame [m], z up, and its exact pictures."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.synthetic import drawing, kernels
from vggt_ros.synthetic.lighting import Ambient, Lamp, light_maps
from vggt_ros.synthetic.primitives import FACE_COUNTS, Primitive, SceneObject, face_frame
from vggt_ros.synthetic.rays import pixel_rays
from vggt_ros.synthetic.tone import DECODE, ENCODE, to_grey, to_linear
from vggt_ros.types import Float32, Image


@dataclass(frozen=True, eq=False)
class SyntheticImage:
    """A noise-free picture and what is true of it.

    `rgb` (H, W, 3); `depth` (H, W) [m] along z at the pixel centres, NaN where nothing is seen;
    `surface_id` (H, W) int16, index into `World.primitives`, -1 for nothing; `is_moving` (H, W)
    bool, true on objects with a motion.
    """

    rgb: Image
    depth: Float32
    surface_id: NDArray[np.int16]
    is_moving: NDArray[np.bool_]
    model: CameraModel
    map_from_camera: Rigid3
    time_s: float


@dataclass(frozen=True, eq=False)
class World:
    """Objects, painted once when first rendered; immutable.

    Args:
        objects: what stands in the room.
        seed: of the painters; with the name of an object and the number of a face it fixes
            every texture.
        background: linear light where no surface is seen.
        lamps: what lights the room; without any, surfaces show their paint as it is.
    """

    objects: tuple[SceneObject, ...]
    seed: int = 0
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lamps: tuple[Lamp | Ambient, ...] = ()

    @functools.cached_property
    def primitives(self) -> tuple[Primitive, ...]:
        """All primitives; `surface_id` is the index here."""
        return tuple(p for thing in self.objects for p in thing.primitives)

    @functools.cached_property
    def is_moving(self) -> NDArray[np.bool_]:
        """(P,) whether each primitive belongs to an object with a motion."""
        moving = [o.motion is not None for o in self.objects for _ in o.primitives]
        return np.array(moving, bool)

    def poses(self, time_s: float = 0.0) -> tuple[Rigid3, ...]:
        """`map_from_primitive` at a time."""
        placed = ((thing.pose(time_s), thing) for thing in self.objects)
        return tuple(
            pose @ p.object_from_primitive for pose, thing in placed for p in thing.primitives
        )

    def render(
        self,
        model: CameraModel,
        map_from_camera: Rigid3,
        time_s: float = 0.0,
        supersample: int = 2,
    ) -> SyntheticImage:
        """What a camera sees, without noise; distortion is that of the model.

        Args:
            model: with or without distortion.
            map_from_camera: of the optical frame (x right, y down, z forward).
            time_s: where moving objects are.
            supersample: rays per pixel and axis where surfaces meet; 1 gives jagged edges.
        """
        return FixedCamera(self, model, map_from_camera, supersample).render(time_s)

    def geometry(self, time_s: float = 0.0) -> Geometry:
        """Shapes and places at a time as arrays for the kernels."""
        poses = self.poses(time_s)
        return Geometry(
            np.array([p.shape for p in self.primitives], np.int64).reshape(-1),
            np.array([p.size for p in self.primitives], np.float64).reshape(-1, 3) / 2,
            np.array([pose.rotation for pose in poses]).reshape(-1, 3, 3),
            np.array([pose.translation for pose in poses]).reshape(-1, 3),
        )

    @functools.cached_property
    def packed(self) -> PackedFaces:
        """All faces painted and lit; takes seconds for a furnished room."""
        textures = list(self._paint())
        ones = np.ones((1, 1, 3), np.float32)
        lights = light_maps(self) if self.lamps else [ones] * len(textures)
        return _pack(self.primitives, textures, lights)

    def _paint(self) -> Iterator[Image]:
        for thing in self.objects:
            for index, primitive in enumerate(thing.primitives):
                for face in range(FACE_COUNTS[primitive.shape]):
                    width, height = face_frame(primitive.shape, primitive.size, face)[3:]
                    key = zlib.crc32(f"{thing.name}/{index}/{face}".encode())
                    random = np.random.default_rng([self.seed, key])
                    material = primitive.material(face)
                    yield material.paint(width, height, material.texel_m, random)


class FixedCamera:
    """A camera that stands still: what does not move is rendered only once.

    Gives the same pictures as `World.render`.
    """

    def __init__(
        self, world: World, model: CameraModel, map_from_camera: Rigid3, supersample: int = 2
    ) -> None:
        if supersample < 1:
            raise ValueError(f"supersample: expected at least 1, got {supersample}")
        self._world = world
        self._model = model
        self._map_from_camera = map_from_camera
        self._supersample = supersample
        self._static: _Buffers | None = None

    def render(self, time_s: float = 0.0) -> SyntheticImage:
        """The picture at a time; see `World.render`."""
        moving = self._world.is_moving
        tiles = (-(-self._model.height // kernels.TILE), -(-self._model.width // kernels.TILE))
        if self._static is None:
            self._static = _Buffers.empty(self._model)
            self._draw(self._static, ~moving, np.ones(tiles, bool), time_s)
        buffers = self._static.copy()
        if moving.any():
            bounds = self._camera_geometry(time_s)[2][moving]
            rays = pixel_rays(self._model)[0]
            touched = kernels.touched_tiles(bounds, rays, *tiles)
            self._draw(buffers, np.ones(len(moving), bool), touched, time_s)
        is_moving = np.append(moving, False)[buffers.ids]
        return SyntheticImage(
            buffers.rgb,
            buffers.depth,
            buffers.ids,
            is_moving,
            self._model,
            self._map_from_camera,
            time_s,
        )

    def _camera_geometry(
        self, time_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Rotation `primitive_from_camera`, camera centre in the primitives, image bounds."""
        geometry = self._world.geometry(time_s)
        camera_from_map = self._map_from_camera.inverse()
        rotations = camera_from_map.rotation @ geometry.rotations
        centred = geometry.places - self._map_from_camera.translation
        places = centred @ camera_from_map.rotation.T
        m = np.ascontiguousarray(rotations.transpose(0, 2, 1))
        o = np.ascontiguousarray(-np.einsum("pij,pj->pi", m, places))
        return m, o, kernels.image_bounds(geometry.half, rotations, places)

    def _draw(
        self,
        buffers: _Buffers,
        drawn: NDArray[np.bool_],
        touched: NDArray[np.bool_],
        time_s: float,
    ) -> None:
        m, o, bounds = self._camera_geometry(time_s)
        bounds[~drawn, 0], bounds[~drawn, 1] = np.inf, -np.inf
        geometry, packed = self._world.geometry(time_s), self._world.packed
        drawing.render(
            touched,
            buffers.rgb,
            buffers.depth,
            buffers.ids,
            buffers.faces,
            *pixel_rays(self._model),
            m,
            o,
            bounds,
            geometry.shapes,
            geometry.half,
            packed.first_face,
            packed.frames,
            packed.texels,
            packed.levels,
            packed.level_counts,
            packed.lights,
            packed.lightmaps,
            DECODE,
            ENCODE,
            np.array(self._world.background, np.float32),
            self._supersample,
        )


@dataclass(frozen=True, eq=False)
class _Buffers:
    """A picture in the making; `faces` are those of `PackedFaces`."""

    rgb: Image
    depth: Float32
    ids: NDArray[np.int16]
    faces: NDArray[np.int32]

    @staticmethod
    def empty(model: CameraModel) -> _Buffers:
        shape = (model.height, model.width)
        return _Buffers(
            np.zeros((*shape, 3), np.uint8),
            np.full(shape, np.nan, np.float32),
            np.full(shape, -1, np.int16),
            np.full(shape, -1, np.int32),
        )

    def copy(self) -> _Buffers:
        return _Buffers(self.rgb.copy(), self.depth.copy(), self.ids.copy(), self.faces.copy())


@dataclass(frozen=True, eq=False)
class Geometry:
    """(P,) shapes, (P, 3) half sizes, `map_from_primitive` (P, 3, 3) and (P, 3) [m]."""

    shapes: NDArray[np.int64]
    half: NDArray[np.float64]
    rotations: NDArray[np.float64]
    places: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PackedFaces:
    """Faces, texture pyramids and light maps as flat arrays; see `drawing.render`."""

    first_face: NDArray[np.int64]
    frames: NDArray[np.float64]
    texels: NDArray[np.uint8]
    levels: NDArray[np.int64]
    level_counts: NDArray[np.int64]
    lights: Float32
    lightmaps: NDArray[np.int64]


def face_frames(primitives: Sequence[Primitive]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Index of the first face of each primitive (P,), and (F, 11) corner, axes and size."""
    first: list[int] = []
    frames: list[NDArray[np.float64]] = []
    for primitive in primitives:
        first.append(len(frames))
        for face in range(FACE_COUNTS[primitive.shape]):
            corner, u, v, width, height = face_frame(primitive.shape, primitive.size, face)
            frames.append(np.concatenate([corner, u, v, [width, height]]))
    return np.array(first, np.int64), np.array(frames, np.float64).reshape(-1, 11)


def _pyramid(rgb: Image) -> list[Image]:
    """The texture and its halvings, averaged in linear light."""
    levels = [np.ascontiguousarray(rgb)]
    linear = to_linear(rgb)
    while max(linear.shape[:2]) > 1:
        size = (max(linear.shape[1] // 2, 1), max(linear.shape[0] // 2, 1))
        halved = cv2.resize(linear, size, interpolation=cv2.INTER_AREA)
        linear = np.asarray(halved, np.float32).reshape(*size[::-1], 3)
        levels.append(to_grey(linear))
    return levels


def _pack(
    primitives: Sequence[Primitive], textures: Sequence[Image], lights: Sequence[Float32]
) -> PackedFaces:
    first, frames = face_frames(primitives)
    depth = max((max(t.shape[:2]).bit_length() for t in textures), default=0) + 1
    levels = np.zeros((len(textures), depth, 3), np.int64)
    counts = np.zeros(len(textures), np.int64)
    chunks: list[Image] = []
    pyramids: dict[int, tuple[int, int]] = {}
    offset = 0
    for index, texture in enumerate(textures):
        if id(texture) in pyramids:  # painters may hand out one image many times
            same, counts[index] = pyramids[id(texture)]
            levels[index] = levels[same]
            continue
        pyramid = _pyramid(texture)
        for k, level in enumerate(pyramid):
            levels[index, k] = offset, level.shape[1], level.shape[0]
            chunks.append(level.reshape(-1))
            offset += level.size
        counts[index] = len(pyramid)
        pyramids[id(texture)] = index, len(pyramid)
    maps = np.zeros((len(lights), 3), np.int64)
    offset = 0
    for index, light in enumerate(lights):
        maps[index] = offset, light.shape[1], light.shape[0]
        offset += light.shape[0] * light.shape[1]
    flat = [light.reshape(-1, 3).astype(np.float32) for light in lights]
    return PackedFaces(
        first,
        frames,
        np.concatenate(chunks) if chunks else np.zeros(0, np.uint8),
        levels,
        counts,
        np.concatenate(flat) if flat else np.zeros((0, 3), np.float32),
        maps,
    )
