"""`pcd_to_3dgs`: 3-D Gaussians to start a splatting optimiser from.

From a point cloud (PLY or PCD), or from what VGGT predicts, saved as arrays: depth, confidence,
camera vectors and colours.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros.cli.arguments import not_negative, positive
from vggt_ros.errors import ConfigError, EngineError, SourceError, VggtRosError

if TYPE_CHECKING:
    from vggt_ros.types import PointCloud

_EXAMPLES = """\
examples:
  pcd_to_3dgs result/map.ply --output seed.ply
  pcd_to_3dgs map.pcd --output seed.ply --sh-degree 0 --min-conf 0.5
  pcd_to_3dgs --depth depth.npy --confidence conf.npy --camera camera.npy --colors colors.npy \\
      --output scene.ply

Arrays: depth (N, H, W), confidence (N, H, W), camera (N, 9): translation, quaternion xyzw and
fields of view, camera from world; colors (N, 3, H, W) or (N, H, W, 3), 0 to 1. A leading batch
axis of 1 and a trailing channel of 1 are accepted.
"""

DEFAULT_MIN_CONF, DEFAULT_MAX_DEPTH = 0.3, 10.0
"""For arrays, as always documented; a map has been filtered before."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcd_to_3dgs",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("cloud", nargs="?", type=Path, metavar="MAP", help="PLY or PCD file")
    add("--engine", type=Path, metavar="FILE", help="VGGT engine (with --images-dir)")
    add("--images-dir", type=Path, metavar="DIR", help="images for the engine")
    add("--depth", type=Path, metavar="NPY", help="depth arrays")
    add("--confidence", type=Path, metavar="NPY", help="confidence of the depth")
    add("--camera", type=Path, metavar="NPY", help="camera vectors")
    add("--colors", type=Path, metavar="NPY", help="colours; grey without")
    add(
        "--min-conf",
        type=not_negative,
        help=f"leave out points below (default for arrays: {DEFAULT_MIN_CONF})",
    )
    add(
        "--max-depth",
        type=positive,
        help=f"leave out pixels beyond (default for arrays: {DEFAULT_MAX_DEPTH})",
    )
    add("--output", type=Path, required=True, metavar="PLY", help="file to write")
    add("--use-sh", action="store_true", default=True, help="always on; kept for old commands")
    add(
        "--sh-degree",
        type=int,
        default=3,
        help="3 (default): 45 f_rest of zeros; 0: none, 17 properties",
    )
    add("--scale", type=positive, default=0.0, help="size of each Gaussian; else from neighbours")
    add("--verbose", action="store_true", help="log debug messages")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors of ours become one line on stderr and exit code 1."""
    args = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, stream=sys.stderr)
    try:
        return run(args)
    except VggtRosError as error:
        print(f"pcd_to_3dgs: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    from vggt_ros.export.gaussians import GaussianOptions, write_gaussians
    from vggt_ros.export.select import filter_cloud

    options = GaussianOptions(sh_degree=args.sh_degree, scale=args.scale)
    options.check()
    if args.engine is not None:
        _refuse_engine(args.engine)
    if args.cloud is not None:
        if args.depth is not None or args.max_depth is not None:
            raise ConfigError("expected MAP or --depth with its options, got both")
        cloud = _read_cloud(args.cloud)
        cloud = filter_cloud(cloud, min_confidence=args.min_conf or 0.0)
    else:
        cloud = _from_arrays(args)
    if len(cloud) == 0:
        raise SourceError("no points are left: lower --min-conf or raise --max-depth")
    write_gaussians(args.output, cloud, options, progress=True)
    unit = "metres" if cloud.is_metric else "unscaled, not metres"
    print(f"{len(cloud):,} Gaussians ({unit}) in {args.output}")
    return 0


def _refuse_engine(engine: Path) -> None:
    if not engine.is_file():
        raise EngineError(
            f"--engine {engine}: expected a VGGT engine, got no file; build one with "
            "`vggt_to_trt --export --pcd-only --precision fp16 --output-dir onnx_exports`"
        )
    raise EngineError(
        f"--engine {engine}: expected points, this command runs no network; make a map with "
        f"`vggt-ros reconstruct --source images --images DIR --vggt_engine {engine}` and give "
        "its bootstrap_map.ply"
    )


def _read_cloud(path: Path) -> PointCloud:
    from vggt_ros.export.pcd import read_pcd
    from vggt_ros.export.ply import read_ply

    return read_pcd(path) if path.suffix.lower() == ".pcd" else read_ply(path)


def _from_arrays(args: argparse.Namespace) -> PointCloud:
    """The points of all pixels that are sure and near enough."""
    import numpy as np

    from vggt_ros.inference.vggt import decode_cameras
    from vggt_ros.types import PointCloud

    missing = [n for n in ("depth", "confidence", "camera") if getattr(args, n) is None]
    if missing:
        raise ConfigError(
            "expected MAP, or --depth, --confidence and --camera; missing: "
            f"{', '.join('--' + name for name in missing)}"
        )
    depth = _unbatched(_load("depth", args.depth), 3)
    views, height, width = depth.shape
    confidence = _shaped("confidence", _load("confidence", args.confidence), depth.shape)
    vectors = _shaped("camera", _load("camera", args.camera), (views, 9))
    colours = np.full((*depth.shape, 3), 128, np.uint8)
    if args.colors is not None:
        images = _unbatched(_load("colors", args.colors), 4, channel=False)
        if images.shape[1] == 3 and images.shape[-1] != 3:
            images = images.transpose(0, 2, 3, 1)
        images = _shaped("colors", images, (*depth.shape, 3))
        colours = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    least = DEFAULT_MIN_CONF if args.min_conf is None else args.min_conf
    farthest = args.max_depth or DEFAULT_MAX_DEPTH
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1) + 0.5
    kept: list[list[Any]] = [[], [], [], []]
    for k, camera in enumerate(decode_cameras(vectors, width, height)):
        if camera is None or camera.focal_px is None:
            raise SourceError(f"{args.camera}: row {k} is no camera: {vectors[k].tolist()}")
        rays = np.ones((height, width, 3))
        rays[..., :2] = (pixels - [width / 2, height / 2]) / camera.focal_px
        in_camera = rays * depth[k][..., None]
        pose = camera.world_from_camera
        points = pose.apply(in_camera.reshape(-1, 3)).reshape(in_camera.shape)
        normals = _normals(in_camera) @ pose.rotation.T
        with np.errstate(invalid="ignore"):
            keep = (confidence[k] >= least) & (depth[k] <= farthest) & (depth[k] > 0)
        for values, found in zip(kept, (points, colours[k], normals, confidence[k]), strict=True):
            values.append(found[keep])
    points, rgb, normals, sure = (np.concatenate(values) for values in kept)
    if len(sure) and sure.max() > 1:
        sure = 1 - 1 / np.maximum(sure, 1)  # VGGT's confidence is 1 + exp(x)
    return PointCloud(
        points.astype(np.float32),
        rgb,
        normals.astype(np.float32),
        sure.astype(np.float32),
        "world",
        False,
    )


def _normals(points: Any) -> Any:
    """Normals (H, W, 3) towards the camera of points (H, W, 3) in the camera frame."""
    import numpy as np

    if min(points.shape[:2]) < 2:
        return np.zeros_like(points)
    down, right = np.gradient(points, axis=(0, 1))
    normals = np.cross(down, right)
    with np.errstate(invalid="ignore", divide="ignore"):
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.nan_to_num(normals)


def _load(name: str, path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"--{name} {path}: expected a .npy file: {error}") from error


def _unbatched(array: Any, axes: int, channel: bool = True) -> Any:
    """Without a leading batch axis of 1 and a trailing channel of 1."""
    if channel and array.ndim > axes and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == axes + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != axes:
        raise SourceError(f"expected an array with {axes} axes, got shape {array.shape}")
    return array


def _shaped(name: str, array: Any, shape: tuple[int, ...]) -> Any:
    if array.ndim == len(shape) + 1 and array.shape[0] == 1:
        array = array[0]
    if array.shape != shape:
        raise SourceError(f"--{name}: expected shape {shape}, got {array.shape}")
    return array


if __name__ == "__main__":
    sys.exit(main())
