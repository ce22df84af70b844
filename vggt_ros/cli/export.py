"""`vggt-ros export`: a map as other programs want it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.cli.arguments import not_negative
from vggt_ros.errors import ConfigError, ExportError, SourceError

if TYPE_CHECKING:  # imported where they are used: `vggt-ros --help` must not wait for them
    from vggt_ros.export.formats import ExportOptions
    from vggt_ros.export.mesh import Mesh
    from vggt_ros.types import AlignedScene, PointCloud

_EXAMPLES = """\
examples:
  vggt-ros export result --format glb,colmap,3dgs
  vggt-ros export result/map.ply --out sparse --format colmap --images photos
  vggt-ros export map.ply --out map.laz --voxel 0.02 --min-confidence 0.3
  vggt-ros export mesh.ply --out mesh.obj
  vggt-ros export hall.vggtmap --format glb,colmap --out .

Cameras and scale are read from report.json (or cameras.tum) and features.npz beside the map, as
replay and demo leave them. Lengths are metres if the map says so; a map without a scale stays
unscaled in every format, and says so where the format has a place for it.
"""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a map as PLY, PCD, GLB, COLMAP, nerfstudio, TUM, NPZ, LAS, 3-D Gaussians",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "map",
        type=Path,
        metavar="MAP",
        help="PLY or PCD file, saved map (~/save_map), or the folder of results",
    )
    add("--out", type=Path, metavar="PATH", help="file; folder for several formats or colmap")
    add(
        "--format",
        default="",
        metavar="NAMES",
        help="ply, pcd, glb, colmap, nerfstudio, tum, npz, las, laz, 3dgs, obj (meshes only); "
        "several with commas; without it by the suffix of --out",
    )
    add("--cameras", type=Path, metavar="DIR", help="folder of report.json; that of MAP if absent")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="name the images after the files in it, one for each camera",
    )
    keep = parser.add_argument_group("which points")
    keep.add_argument(
        "--min-confidence", type=not_negative, default=0.0, metavar="C", help="0 to 1"
    )
    keep.add_argument(
        "--conf-percentile",
        type=not_negative,
        default=0.0,
        metavar="P",
        help="leave out the least sure P percent",
    )
    keep.add_argument(
        "--box",
        type=float,
        nargs=6,
        metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
        help="lower and upper corner, in the frame and unit of the map",
    )
    keep.add_argument(
        "--voxel", type=not_negative, default=0.0, metavar="M", help="one point per cube"
    )
    how = parser.add_argument_group("how some formats are written")
    how.add_argument("--ascii", action="store_true", help="ply, pcd: text")
    how.add_argument("--no-cameras", action="store_true", help="glb: points only")
    how.add_argument(
        "--placement",
        default="y_up",
        help="glb: y_up, first_camera (as VGGT's demos do), none",
    )
    how.add_argument("--sh-degree", type=int, default=0, help="3dgs: 0 (17 properties) to 3")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vggt_ros.export.formats import FORMATS, choose_format, export_map
    from vggt_ros.export.select import select, select_features
    from vggt_ros.export.trajectory import static_poses

    path = _map_file(args.map)
    names = [name for name in args.format.split(",") if name]
    if not names and args.out is None:
        raise ConfigError(
            "export: expected --format or --out, got neither; --format one or more of "
            f"{', '.join(FORMATS)}"
        )
    names = [choose_format(name, args.out or path) for name in names or [""]]
    targets = [_target(args.out, name, path, len(names) > 1) for name in names]
    cloud, mesh, scene = _read(path, args.cameras)
    options = _options(args, list(scene.map_from_camera) if scene is not None else [])
    if mesh is None:
        cloud = _filtered(cloud, args)
        if args.box and scene is not None and scene.features:
            scene = select_features(scene, args.box)
    elif args.box or args.voxel or args.min_confidence or args.conf_percentile:
        raise ConfigError(f"{path}: expected points to filter, got a mesh; leave the filters out")
    comments = [f"scale {scene.scale}"] if scene is not None and scene.cameras else []
    poses = static_poses(scene.map_from_camera) if scene is not None else []
    for name, target in zip(names, targets, strict=True):
        # the corners of a mesh are no points of their own
        shown = cloud if mesh is None or name != "glb" else select(cloud, slice(0))
        done = export_map(
            target, name, shown, poses, scene=scene, mesh=mesh, options=options, comments=comments
        )
        unit = "metres" if cloud.is_metric else "unscaled, not metres"
        detail = f": {done.detail}" if done.detail else ""
        print(f"{done.count:,} {done.what} ({unit}) in {target}{detail}")
    return 0


def _map_file(path: Path) -> Path:
    from vggt_ros.results import MAP

    if path.is_dir():
        if not (path / MAP).is_file():
            raise SourceError(f"{path}: expected a map, got a folder without {MAP}")
        return path / MAP
    if not path.exists():
        raise SourceError(f"{path}: does not exist; give a PLY or PCD file or a results folder")
    return path


def _target(out: Path | None, name: str, map_file: Path, several: bool) -> Path:
    """Where a format goes."""
    from vggt_ros.export.formats import FORMATS

    wanted = FORMATS[name]
    default = wanted.default_name.format(stem=map_file.stem, suffix=wanted.suffix)
    if out is None:
        target = map_file.with_name(default)
    elif several:
        if not out.is_dir():
            raise ExportError(f"--out {out}: expected a folder that exists, for several formats")
        target = out / default
    elif out.is_dir() and wanted.suffix:
        target = out / default
    else:
        target = out
    if target.resolve() == map_file.resolve():
        raise ExportError(
            f"export to {target}: expected another file than the map itself, which would be lost; "
            "give --out"
        )
    return target


def _image_names(folder: Path, cameras: Sequence[str]) -> dict[str, str]:
    """The file of each camera, which is named as `vggt-ros bag from-images` names it."""
    from vggt_ros.sources.images import ros_name

    if not folder.is_dir():
        raise SourceError(f"--images {folder}: expected a folder of images")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    names = {ros_name(f.stem): f.name for f in files} | {f.stem: f.name for f in files}
    missing = [camera for camera in cameras if camera not in names]
    if missing:
        raise SourceError(
            f"--images {folder}: expected an image called like each camera, got none for "
            f"{', '.join(missing)} among {len(files)} images"
        )
    return {camera: names[camera] for camera in cameras}


def _options(args: argparse.Namespace, cameras: Sequence[str]) -> ExportOptions:
    from vggt_ros.export.formats import ExportOptions
    from vggt_ros.export.gaussians import GaussianOptions

    gaussians = GaussianOptions(sh_degree=args.sh_degree)
    gaussians.check()
    folder, images = "images", {}
    if args.images is not None:
        folder, images = args.images.name, _image_names(args.images, cameras)
    return ExportOptions(
        ascii=args.ascii,
        show_cameras=not args.no_cameras,
        placement=args.placement,
        gaussians=gaussians,
        image_names=images,
        image_folder=folder,
        progress=True,
    )


def _read(path: Path, cameras: Path | None) -> tuple[PointCloud, Mesh | None, AlignedScene | None]:
    from vggt_ros.export.archive_file import is_archive
    from vggt_ros.export.pcd import read_pcd
    from vggt_ros.export.ply import read_ply
    from vggt_ros.export.ply_faces import read_mesh
    from vggt_ros.export.scene_files import read_scene

    mesh = None
    if is_archive(path):
        from vggt_ros.pipeline.archive import read_cloud

        if cameras is not None:
            raise ConfigError(
                f"--cameras {cameras}: expected none with {path}, a saved map, which has its own"
            )
        return _with_own_cameras(*read_cloud(path))
    if path.suffix.lower() == ".pcd":
        cloud = read_pcd(path)
    else:
        mesh = read_mesh(path)
        cloud = read_ply(path)
    folder = cameras or path.parent
    scene = read_scene(folder)
    if cameras is not None and scene is None:
        raise SourceError(f"--cameras {cameras}: expected report.json or cameras.tum in it")
    known = scene is not None and scene.cameras and cloud.frame
    if scene is not None and known and scene.scale.is_metric != cloud.is_metric:
        raise SourceError(
            f"{path} says its unit is {'m' if cloud.is_metric else 'unscaled'}, but report.json "
            f"in {folder} says {scene.scale.unit}: they are of two runs; give the right folder "
            "with --cameras"
        )
    return cloud, mesh, scene


def _with_own_cameras(
    cloud: PointCloud, scene: AlignedScene
) -> tuple[PointCloud, None, AlignedScene]:
    return cloud, None, scene


def _filtered(cloud: PointCloud, args: argparse.Namespace) -> PointCloud:
    from vggt_ros.export.select import filter_cloud

    cloud = filter_cloud(
        cloud,
        min_confidence=args.min_confidence,
        confidence_percentile=args.conf_percentile,
        box=args.box,
    )
    if args.voxel > 0:
        from vggt_ros.mapping.cloud import voxel_average

        try:
            cloud = voxel_average(cloud, args.voxel)
        except ValueError as error:
            raise ExportError(f"--voxel: {error}") from error
    return cloud
