"""Which formats a map can be exported to, by name; docs/exports.md tells axes and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vggt_ros.errors import ExportError, nearest
from vggt_ros.export.colmap import write_colmap
from vggt_ros.export.files import write_text
from vggt_ros.export.gaussians import GaussianOptions, write_gaussians
from vggt_ros.export.glb_scene import write_scene_glb
from vggt_ros.export.las import write_las
from vggt_ros.export.mesh import Mesh, write_mesh_obj, write_mesh_ply
from vggt_ros.export.nerfstudio import write_transforms
from vggt_ros.export.npz import write_npz
from vggt_ros.export.pcd import write_pcd
from vggt_ros.export.ply import write_ply
from vggt_ros.export.trajectory import StampedPose, write_tum
from vggt_ros.types import AlignedScene, PointCloud


@dataclass(frozen=True)
class Format:
    """What a format is called, and what it needs."""

    suffix: str
    """Of its files; empty: a folder."""
    title: str
    points: bool = True
    """Whether it is nothing without points."""
    intrinsics: bool = False
    """Whether it needs cameras with intrinsics."""
    default_name: str = "{stem}{suffix}"
    """Beside a map called `stem`."""


FORMATS: dict[str, Format] = {
    "ply": Format(".ply", "points, or a mesh, as PLY"),
    "pcd": Format(".pcd", "points as PCD 0.7"),
    "tum": Format(".tum", "camera poses as TUM", points=False),
    "glb": Format(".glb", "points and cameras, or a mesh, as binary glTF", points=False),
    "colmap": Format("", "a folder with COLMAP's model", False, True, "{stem}_colmap"),
    "nerfstudio": Format(".json", "transforms.json and points", False, True, "transforms.json"),
    "npz": Format(".npz", "all arrays for NumPy"),
    "las": Format(".las", "points as LAS 1.4"),
    "laz": Format(".laz", "points as LAZ"),
    "3dgs": Format(".ply", "3-D Gaussians to start with, as PLY", default_name="{stem}_3dgs.ply"),
    "obj": Format(".obj", "a mesh as OBJ", points=False),
}

_SUFFIXES = {format.suffix: name for name, format in reversed(FORMATS.items()) if format.suffix}
"""Where two formats share a suffix, the first counts."""


@dataclass(frozen=True)
class ExportOptions:
    """What only some formats heed."""

    ascii: bool = False
    """Text instead of binary (ply, pcd)."""
    confidence_percentile: float = 0.0
    """Leave out points below it, 0 to 100 (glb)."""
    show_cameras: bool = True
    """Draw camera cones (glb)."""
    placement: str = "y_up"
    """Axes of the scene, see `glb_scene.PLACEMENTS` (glb)."""
    gaussians: GaussianOptions = field(default_factory=GaussianOptions)
    """(3dgs)"""
    image_names: Mapping[str, str] = field(default_factory=dict)
    """File of each camera (colmap, nerfstudio)."""
    image_folder: str = "images"
    """(nerfstudio)"""
    progress: bool = False
    """Show bars for what takes seconds."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: list[Path]
    """The map first."""
    count: int
    what: str
    """What was counted: "points", "poses", "triangles" or "Gaussians"."""
    detail: str = ""
    """More, for people."""


def choose_format(format: str, path: Path) -> str:
    """The name of a format, given or by the suffix of a path.

    Raises:
        ExportError: there is no such format.
    """
    name = format.lower() or _SUFFIXES.get(path.suffix.lower(), "")
    if name not in FORMATS:
        got = f"format '{format}'" if format else f"a path without a known suffix, '{path}'"
        raise ExportError(
            f"export: expected a format of {', '.join(FORMATS)}, got {got}{nearest(name, FORMATS)}"
        )
    return name


def export_map(
    path: str | Path,
    format: str,
    cloud: PointCloud,
    cameras: Sequence[StampedPose] = (),
    *,
    scene: AlignedScene | None = None,
    mesh: Mesh | None = None,
    options: ExportOptions | None = None,
    comments: Sequence[str] = (),
    config_text: str = "",
) -> Exported:
    """Write a map in one format; each file is complete or as it was before.

    Args:
        path: the file, or for `colmap` the folder; without a suffix that of the format is
            appended.
        format: one of `FORMATS`; empty: by the suffix of `path`.
        cloud: the points, and for every format the frame and whether it is metric.
        cameras: the poses, for `tum`; `static_poses` makes them from a rig's cameras.
        scene: the cameras, for the formats that show or need them.
        mesh: written instead of the points as `ply` and `obj`, beside them as `glb`.
        options: what only some formats heed.
        comments: header lines, such as where the scale came from.
        config_text: the accepted configuration (`dump_config`), saved as `<path>.config.yaml`.

    Raises:
        ExportError: unknown format, nothing to write, or the file cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise ExportError(f"export: expected the name of a file, got '{path}'")
    name = choose_format(format, path)
    wanted = FORMATS[name]
    suffix = path.suffix.lower()
    if suffix != wanted.suffix and suffix in _SUFFIXES:
        raise ExportError(
            f"export to {path}: expected a path that fits the format, got {name} and the suffix "
            f"of {_SUFFIXES[suffix]}; change one of them"
        )
    if not path.suffix and wanted.suffix:
        path = path.with_suffix(wanted.suffix)
    if wanted.points and len(cloud) == 0 and mesh is None:
        raise ExportError(f"export to {path}: the map has no points yet; nothing was written")
    if wanted.intrinsics:
        _check_intrinsics(path, name, scene)
    done = _write(path, name, _Content(cloud, cameras, scene, mesh), options, comments)
    if config_text:
        done.files.append(path.with_name(path.name + ".config.yaml"))
        write_text(done.files[-1], config_text)
    return done


@dataclass(frozen=True, eq=False)
class _Content:
    cloud: PointCloud
    poses: Sequence[StampedPose]
    scene: AlignedScene | None
    mesh: Mesh | None


def _write(
    path: Path,
    name: str,
    content: _Content,
    options: ExportOptions | None,
    comments: Sequence[str],
) -> Exported:
    options = options or ExportOptions()
    cloud, scene, mesh = content.cloud, content.scene, content.mesh
    progress = options.progress
    files, count, what, detail = [path], len(cloud), "points", ""
    if name == "tum":
        if not content.poses:
            raise ExportError(f"export to {path}: no camera has a pose yet; bootstrap first")
        count, what = len(content.poses), "poses"
        write_tum(
            path, content.poses, frame=cloud.frame, is_metric=cloud.is_metric, comments=comments
        )
    elif name == "obj" or (name == "ply" and mesh is not None):
        if mesh is None or not len(mesh):
            raise ExportError(f"export to {path}: expected a mesh, got points only; write PLY")
        count, what = len(mesh), "triangles"
        if name == "obj":
            write_mesh_obj(path, mesh, comments=comments, progress=progress)
        else:
            write_mesh_ply(path, mesh, ascii=options.ascii, comments=comments, progress=progress)
    elif name in ("ply", "pcd"):
        write = write_ply if name == "ply" else write_pcd
        write(path, cloud, ascii=options.ascii, comments=comments, progress=progress)
    elif name == "glb":
        count = write_scene_glb(
            path,
            cloud,
            scene.map_from_camera if scene is not None else {},
            mesh=mesh,
            confidence_percentile=options.confidence_percentile,
            show_cameras=options.show_cameras,
            placement=options.placement,
            comments=comments,
            progress=progress,
        )
    elif name == "npz":
        write_npz(path, cloud, scene, comments=comments)
    elif name in ("las", "laz"):
        if path.suffix.lower() != f".{name}":
            raise ExportError(f"export to {path}: expected the suffix .{name}, which decides")
        write_las(path, cloud, comments=comments, progress=progress)
    elif name == "3dgs":
        what = "Gaussians"
        write_gaussians(path, cloud, options.gaussians, comments=comments, progress=progress)
    elif name == "colmap":
        assert scene is not None  # _check_intrinsics
        summary = write_colmap(
            path,
            cloud,
            scene,
            image_names=options.image_names,
            comments=comments,
            progress=progress,
        )
        files, count, detail = summary.files, summary.points, str(summary)
    else:
        assert scene is not None  # _check_intrinsics
        points = path.with_name(f"{path.stem}_points.ply")
        if len(cloud):
            write_ply(points, cloud, comments=comments, progress=progress)
            files.append(points)
        write_transforms(
            path,
            scene,
            image_names=options.image_names,
            image_folder=options.image_folder,
            points=points.name if len(cloud) else "",
            frame=cloud.frame,
            comments=comments,
        )
        detail = f"{len(scene.map_from_camera)} cameras"
    return Exported(files, count, what, detail)


def _check_intrinsics(path: Path, name: str, scene: AlignedScene | None) -> None:
    if scene is None or not scene.map_from_camera:
        raise ExportError(
            f"export to {path}: {name} needs cameras, and none has a pose: bootstrap first, or "
            "export a map that has its report.json beside it"
        )
    unknown = [camera for camera in scene.map_from_camera if camera not in scene.cameras]
    if unknown:
        raise ExportError(
            f"export to {path}: {name} needs intrinsics, and those of {', '.join(unknown)} are "
            "not known: a cameras.tum holds poses only; keep report.json beside the map"
        )
