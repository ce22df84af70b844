"""All that mapping needs to go on later, in one file: map, cameras, scale, alignment, landmarks.

Saving takes a snapshot between two steps and writes it while mapping goes on. Loading checks
everything, into a map of its own, before anything of the running pipeline changes.
docs/decisions/0015-map-archive.md tells why.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros.config import Config, MapConfig
from vggt_ros.errors import ConfigError, ExportError, SourceError
from vggt_ros.export.archive_file import Members, read_members, write_members
from vggt_ros.geometry import Rigid3
from vggt_ros.mapping.interface import Map
from vggt_ros.mapping.make_map import make_map
from vggt_ros.mapping.map_file import MapBytes
from vggt_ros.parameters import dump_config
from vggt_ros.pipeline.align_depth import DepthAligner
from vggt_ros.pipeline.landmarks import (
    LANDMARKS,
    MOST_IMAGES,
    Landmarks,
    SeenView,
    joined,
    landmark_bytes,
    landmarks_from,
    landmarks_of,
)
from vggt_ros.pipeline.report import map_frame
from vggt_ros.pipeline.scene_members import scene_from_members, scene_members
from vggt_ros.types import AlignedScene, Float64, Frame, PointCloud

if TYPE_CHECKING:
    from vggt_ros.pipeline.mapping import MappingPipeline

log = logging.getLogger(__name__)

MAP, ALIGNMENT, ENGINES, CONFIG = "map.npz", "alignment.json", "engines.json", "config.yaml"
PATH = "path.json"
"""[stamp in ns, map_from_rig (4, 4)] of the keyframes of a moving rig."""

PASSPORTS, EXTRA = "passports/", "extra/"

_LANDMARK_DEPTH_PX = 480
"""Width at which the map is rendered to place landmarks."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A pipeline at one moment; nothing in it changes when mapping goes on."""

    members: Mapping[str, bytes]
    about: Mapping[str, Any]
    views: Sequence[SeenView]
    points_in_map: Float64
    landmarks: Sequence[Landmarks]
    """From the archive that was loaded, if one was."""
    points: int


@dataclass(frozen=True, eq=False)
class SavedMap:
    """A loaded archive, checked: what `MappingPipeline.take_over` goes on with."""

    path: Path
    about: Mapping[str, Any]
    map: Map
    scene: AlignedScene
    alignment: Any
    landmarks: tuple[Landmarks, ...]
    extra: Mapping[str, bytes]

    @property
    def stamp_ns(self) -> int:
        """Of the newest set in the map."""
        return int(self.about.get("stamp_ns", 0))


def snapshot(pipeline: MappingPipeline, stamp_ns: int) -> Snapshot:
    """Copy what is to be saved; call it where steps are made, between two of them.

    Args:
        pipeline: with a scene.
        stamp_ns: of the newest set in the map.

    Raises:
        ExportError: there is no map yet.
    """
    scene = pipeline.scene
    if scene is None:
        raise ExportError("there is no map yet: the cameras' poses have not been found")
    path = pipeline.path()
    scene = scene_at_the_end(scene, path)
    file = MapBytes(MAP)
    pipeline.map.save(file)
    config = pipeline.config
    engines = {name: dataclasses.asdict(engine) for name, engine in pipeline.engines.items()}
    members: dict[str, bytes] = {
        MAP: file.getvalue(),
        **scene_members(scene),
        ALIGNMENT: json.dumps(pipeline.aligner.state()).encode(),
        ENGINES: json.dumps(engines).encode(),
        CONFIG: dump_config(config).encode(),
        PATH: json.dumps([[stamp, pose.matrix.tolist()] for stamp, pose in path]).encode(),
        **_passports(config),
        **{EXTRA + name: content for name, content in pipeline.extra.items()},
    }
    about = {
        "map": dataclasses.asdict(config.map),
        "frame": map_frame(config.frame.map, scene),
        "unit": scene.scale.unit,
        "scale": str(scene.scale),
        "stamp_ns": stamp_ns,
        "points": pipeline.map.size,
        "cameras": list(scene.map_from_camera),
        "motion": config.motion,
    }
    views = []
    for frame, map_from_camera in pipeline.last_views:
        assert frame.model is not None  # undistorted frames have one
        model = frame.model.without_distortion()
        if model.width > _LANDMARK_DEPTH_PX:
            height = max(1, round(model.height * _LANDMARK_DEPTH_PX / model.width))
            model = model.resized(_LANDMARK_DEPTH_PX, height)
        depth = pipeline.map.render(model, map_from_camera).depth
        features = scene.features.get(frame.camera)
        views.append(SeenView(frame, map_from_camera, depth, model, features))
    views += [
        SeenView(Frame(d.camera, d.stamp_ns, d.rgb, d.model), d.map_from_camera, d.depth, d.model)
        for d in pipeline.kept_views(MOST_IMAGES * max(1, len(scene.cameras)))
    ]
    return Snapshot(
        members, about, views, scene.points_in_map, pipeline.landmarks, pipeline.map.size
    )


def write_snapshot(path: str | Path, taken: Snapshot) -> int:
    """Write a snapshot, atomically; returns the size of the file [bytes].

    Raises:
        ExportError: the file cannot be written; what stood there stays.
    """
    seen = [landmarks_of(view, taken.points_in_map) for view in taken.views]
    landmarks = joined(seen, taken.landmarks)
    counts: dict[str, int] = {}
    for entry in landmarks:
        counts[entry.camera] = counts.get(entry.camera, 0) + len(entry)
    members = {**taken.members, LANDMARKS: landmark_bytes(landmarks)}
    return write_members(path, {**taken.about, "landmarks": counts}, members)


def save_archive(path: str | Path, pipeline: MappingPipeline, stamp_ns: int = 0) -> int:
    """Save a pipeline that nobody else steps meanwhile; returns the size of the file [bytes].

    Raises:
        ExportError: there is no map yet, or the file cannot be written.
    """
    return write_snapshot(path, snapshot(pipeline, stamp_ns))


def load_archive(path: str | Path, config: Config) -> SavedMap:
    """Read and check an archive for a pipeline of this configuration.

    Raises:
        SourceError: no such file, another version, cut off or damaged.
        ConfigError: another kind of map or other voxels, more than the budget holds, no camera in
            common, or unscaled where `scale.require_metric` is set.
    """
    members = read_members(path)
    kind = _map_settings(path, members).kind
    if kind != config.map.kind:
        raise ConfigError(
            f"map.kind: {path} holds a map of kind '{kind}', the configuration says "
            f"'{config.map.kind}'; set map.kind to that of the file"
        )
    if config.motion != "static" and (config.motion != "tf" or config.frame.odom):
        raise ConfigError(
            f"motion: a saved map is gone on with where the rig stands still (static) or another "
            f"localiser says where it is in this map (tf, without frame.odom), got "
            f"'{config.motion}': a path that is found from the images begins a map of its own"
        )
    scene = scene_from_members(members.content)
    if config.scale.require_metric and not scene.scale.is_metric:
        raise ConfigError(
            f"scale.require_metric: {path} holds an unscaled map; load one with a scale, or set "
            "scale.require_metric: false"
        )
    if config.cameras and not set(config.cameras) & set(scene.map_from_camera):
        raise ConfigError(
            f"cameras: {path} knows {', '.join(scene.map_from_camera)}, the configuration has "
            f"{', '.join(config.cameras)}; name the cameras as they were when it was saved"
        )
    found = make_map(config.map)
    found.load(MapBytes(f"{MAP} of {path}", _member(path, members, MAP)))
    try:
        alignment = json.loads(_member(path, members, ALIGNMENT))
        DepthAligner(config.align).load_state(alignment)
    except (ValueError, ConfigError) as error:
        raise SourceError(f"map archive {path}: {ALIGNMENT}: {error}") from error
    return SavedMap(
        Path(path),
        members.about,
        found,
        _without_strangers(scene, config),
        alignment,
        landmarks_from(_member(path, members, LANDMARKS)),
        {
            name[len(EXTRA) :]: content
            for name, content in members.content.items()
            if name.startswith(EXTRA)
        },
    )


def read_cloud(path: str | Path) -> tuple[PointCloud, AlignedScene]:
    """The points of an archive, chosen as its configuration did, and its cameras.

    Raises:
        SourceError, ConfigError: as `load_archive`.
    """
    members = read_members(path)
    settings = _map_settings(path, members)
    scene = scene_from_members(members.content)
    found = make_map(settings)
    found.load(MapBytes(f"{MAP} of {path}", _member(path, members, MAP)))
    cloud = found.cloud(settings.min_hits, settings.min_confidence)
    frame = str(members.about.get("frame", "map"))
    return replace(cloud, frame=frame, is_metric=scene.scale.is_metric), scene


def check_cameras(saved: SavedMap, pipeline: MappingPipeline) -> None:
    """Refuse a map whose cameras are not those that are looking now.

    Raises:
        ConfigError: a camera whose images have another aspect than when it was saved.
    """
    live = pipeline.rig.models if pipeline.rig is not None else {}
    for name, model in saved.scene.cameras.items():
        now = live.get(name)
        if now is not None and abs(now.height * model.width / now.width - model.height) > 1.0:
            raise ConfigError(
                f"camera '{name}': {saved.path} knows it with {model.width}x{model.height} "
                f"pixels, its calibration now says {now.width}x{now.height}, of another aspect; "
                "it is another camera or another crop: name it differently, or map anew"
            )


def _member(path: str | Path, members: Members, name: str) -> bytes:
    content = members.content.get(name)
    if content is None:
        raise SourceError(
            f"map archive {path}: expected a member {name}, got {', '.join(members.content)}; it "
            "was not written by this package"
        )
    return content


def _map_settings(path: str | Path, members: Members) -> MapConfig:
    told = members.about.get("map")
    known = {field.name for field in dataclasses.fields(MapConfig)}
    if not isinstance(told, dict) or not isinstance(told.get("kind"), str):
        raise SourceError(f"map archive {path}: its manifest does not say the kind of its map")
    return MapConfig(**{name: value for name, value in told.items() if name in known})


def scene_at_the_end(scene: AlignedScene, path: Sequence[tuple[int, Rigid3]]) -> AlignedScene:
    """The scene of a moving rig with its cameras where they were last."""
    if not path or scene.map_from_rig is None:
        return scene
    motion = path[-1][1] @ scene.map_from_rig.inverse()
    return replace(
        scene,
        map_from_camera={name: motion @ pose for name, pose in scene.map_from_camera.items()},
        map_from_rig=path[-1][1],
        features={},  # their pixels were those of another place
    )


def _without_strangers(scene: AlignedScene, config: Config) -> AlignedScene:
    """Without the cameras that the configuration does not have."""
    if not config.cameras:
        return scene
    names = [name for name in scene.cameras if name in config.cameras]
    if len(names) < len(scene.cameras):
        log.info("map archive: only %s of its cameras are here", ", ".join(names))
    return replace(
        scene,
        cameras={name: scene.cameras[name] for name in names},
        map_from_camera={name: scene.map_from_camera[name] for name in names},
        residuals={n: r for n, r in scene.residuals.items() if n in names},
        features={n: f for n, f in scene.features.items() if n in names},
        failed=tuple(name for name in config.cameras if name not in names),
    )


def _passports(config: Config) -> dict[str, bytes]:
    """The passport of each engine in use, as it lies beside it."""
    from vggt_ros.inference.passport import passport_path

    found = {}
    for stage, used, engine in (
        ("bootstrap", config.bootstrap == "vggt", config.vggt.engine),
        ("depth", config.depth == "depth_anything", config.depth_anything.engine),
    ):
        if used and engine and (file := passport_path(Path(engine))).is_file():
            try:
                found[f"{PASSPORTS}{stage}.json"] = file.read_bytes()
            except OSError as error:
                raise ExportError(f"passport {file}: cannot be read: {error}") from error
    return found
