"""`inference_depth_anything`: what Depth Anything sees, beside what two cameras see.

Each camera is a row: its image, and its depth in colours, near red, far blue. Without a screen,
as it is by default, OUT_DIR gets depth.mp4 and, renewed every second, latest.png.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros.cli.arguments import count, count_or_zero, positive
from vggt_ros.cli.flags import FlagParser
from vggt_ros.errors import ConfigError, ExportError, SourceError, VggtRosError

if TYPE_CHECKING:
    from vggt_ros.inference.depth_anything import DepthAnythingPool
    from vggt_ros.sources.source import ImageSource
    from vggt_ros.types import Float32, Image

VIDEO, LATEST = "depth.mp4", "latest.png"
_LATEST_PERIOD_S = 1.0
_LIVE_RATE_HZ = 15.0
"""Of the video where a live source does not say its rate yet."""
_TIMES = 100
"""Sets that the rate is averaged over."""

_EXAMPLES = """\
examples:
  two webcams, until Ctrl-C:
    inference_depth_anything --engine onnx_exports/depth_anything/depth_rtl.engine
  two videos, any engine or checkpoint, a window:
    inference_depth_anything --engine depth.onnx --source videos --videos pair --show
"""


def build_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog="inference_depth_anything",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--engine", required=True, metavar="FILE", help="engine, ONNX graph or checkpoint")
    add("--source", choices=("webcams", "images", "videos"), help="default: by what is given")
    add("--webcams", nargs="*", metavar="DEV", help="default 0 1; or left=0 right=/dev/video2")
    add("--images", default="", metavar="DIR", help="one folder of images per camera")
    add("--videos", default="", metavar="DIR", help="one video per camera")
    add("--views", default="", metavar="A,B", help="which cameras; default the first two")
    add("--num_cams", type=count, default=2, metavar="N", help="default 2")
    add("--frame_step", type=count, default=1, metavar="N", help="every N-th set, default 1")
    add("--fps", type=positive, default=10.0, help="of image folders; default 10")
    add("--max_frames", type=count, metavar="N", help="end after so many sets")
    add("--backend", default="auto", help="torch, onnxruntime, openvino, tensorrt; default auto")
    add("--device", default="auto", help="cpu, cuda:N; default auto")
    add("--workers", type=count, metavar="N", help="contexts of the engine; default: cameras")
    add("--image_px", type=count, default=518, metavar="PX", help="for engines of free size")
    add("--tile_width", type=count, default=480, metavar="PX", help="of each picture")
    add("--snapshot_every", type=count_or_zero, default=0, metavar="N", help="PNG of each N-th")
    add("--out_dir", type=Path, metavar="DIR", help="default outputs/depth_<date>_<time>")
    add("--no_video", action="store_true", help="only latest.png")
    add("--show", action="store_true", help="a window as well; q or Esc ends")
    add("--no_verify", action="store_true", help="run an engine that its passport does not fit")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; errors of ours become one line and exit code 1."""
    args = build_parser().parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    try:
        return run(args)
    except VggtRosError as error:
        print(f"inference_depth_anything: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    """Open engine and cameras, show and record until they end."""
    from vggt_ros import results
    from vggt_ros.cli.reconstruct_engines import depth_engine
    from vggt_ros.inference.depth_anything import DepthAnythingPool

    out = args.out_dir or Path("outputs") / time.strftime("depth_%Y-%m-%d_%H-%M-%S")
    engine = depth_engine(args.engine, "", "auto", "--engine")
    results.prepare_folder(out)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(_open(args)))
        pool = stack.enter_context(
            DepthAnythingPool.open(
                engine,
                args.backend,
                args.device,
                contexts=args.workers or len(source.rig.names),
                image_px=args.image_px,
                verify=not args.no_verify,
            )
        )
        pool.warm_up(len(source.rig.names))
        demo = Demo(out, args.tile_width, args.snapshot_every, is_recording=not args.no_video)
        try:
            demo.show(source, pool, args.max_frames or 0, has_window=args.show)
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            demo.close()
    if not demo.sets:
        raise SourceError(f"{args.source or 'webcams'}: no images came")
    print(
        f"{demo.sets} sets of {len(source.rig.names)} cameras with {pool.engine.summary}\n"
        f"depth of a set: {demo.milliseconds:.1f} ms (median), {demo.rate_hz:.1f} sets per second"
        f"\nresults in {out}"
    )
    return 0


def _open(args: argparse.Namespace) -> ImageSource:
    from vggt_ros.sources.open_source import SourceOptions, open_source

    given = [kind for kind in ("images", "videos", "webcams") if getattr(args, kind)]
    if len(given) > 1 and args.source is None:
        raise ConfigError(f"expected one of --images, --videos, --webcams, got {', '.join(given)}")
    kind = args.source or (given[0] if given else "webcams")
    options = SourceOptions(
        images=args.images,
        videos=args.videos,
        webcams=tuple(args.webcams or (0, 1)),
        views=args.views,
        num_cams=args.num_cams,
        frame_step=args.frame_step,
        fps=args.fps,
    )
    return open_source(kind, options)


@dataclass
class Demo:
    """Makes the pictures and writes them."""

    folder: Path
    tile_width: int = 480
    snapshot_every: int = 0
    is_recording: bool = True
    sets: int = 0
    _writer: Any = None
    _size: tuple[int, int] = (0, 0)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))
    _written_s: float = -1e9

    @property
    def milliseconds(self) -> float:
        """Median time of the network for a set, of the last hundred."""
        return 1e3 * sorted(self._times)[len(self._times) // 2] if self._times else 0.0

    @property
    def rate_hz(self) -> float:
        """Sets per second, everything included."""
        span = self._ends[-1] - self._ends[0] if len(self._ends) > 1 else 0.0
        return (len(self._ends) - 1) / span if span > 0 else 0.0

    def show(
        self,
        source: ImageSource,
        pool: DepthAnythingPool,
        max_sets: int = 0,
        has_window: bool = False,
    ) -> None:
        """Work off a source.

        Raises:
            SourceError: an image that cannot be read.
            EngineError: the engine failed.
            ExportError: the results cannot be written.
            ConfigError: a window on a machine without one.
        """
        from tqdm import tqdm

        rate = source.rate_hz or _LIVE_RATE_HZ
        for picture in tqdm(
            self._pictures(source, pool), "depth", source.set_count, unit="set", disable=None
        ):
            if self.is_recording:
                self._record(picture, rate)
            self._keep(picture)
            if has_window and not _is_shown(picture):
                break
            if max_sets and self.sets >= max_sets:
                break

    def _pictures(self, source: ImageSource, pool: DepthAnythingPool) -> Iterator[Image]:
        """One picture per set, of one size; a camera that is missing stays as it was."""
        from vggt_ros.pipeline.decode import decode_rgb
        from vggt_ros.types import DepthKind

        rows: dict[str, Image] = {}
        for images in source:
            frames = {image.camera: decode_rgb(image) for image in images}
            began = time.perf_counter()
            found = pool.infer(list(frames.values()))
            self._times.append(time.perf_counter() - began)
            for (name, rgb), depth in zip(frames.items(), found, strict=True):
                values = depth.values
                if pool.kind is DepthKind.DISPARITY:
                    values = _inverse(values)
                rows[name] = self._row_of(name, rgb, values, pool.kind)
            self._ends.append(time.perf_counter())
            if len(rows) < len(source.rig.names):
                continue  # a live camera has not given its first image
            self.sets += 1
            yield self._stacked([rows[name] for name in source.rig.names])

    def _row_of(self, name: str, rgb: Image, depth: Float32, kind: Any) -> Image:
        """Image and depth of one camera, side by side."""
        import numpy as np

        from vggt_ros.preview import colour_depth

        what = {"metric_depth": "m"}.get(kind.value, f"{kind.value}, no unit")
        return np.hstack(
            [self._tile(rgb, name), self._tile(colour_depth(depth), f"{name}: depth ({what})")]
        )

    def _tile(self, rgb: Image, label: str) -> Image:
        import cv2
        import numpy as np

        height = 2 * round(rgb.shape[0] * self.tile_width / rgb.shape[1] / 2)
        tile = np.asarray(cv2.resize(rgb, (self.tile_width, height), interpolation=cv2.INTER_AREA))
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(tile, label, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width)
        return np.asarray(tile, np.uint8)

    def _stacked(self, rows: Sequence[Image]) -> Image:
        import cv2
        import numpy as np

        width = max(row.shape[1] for row in rows)
        line = np.zeros((24, width, 3), np.uint8)
        text = f"{self.milliseconds:.0f} ms per set, {self.rate_hz:.1f} sets/s"
        cv2.putText(line, text, (8, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
        return np.vstack([*rows, line])

    def _record(self, picture: Image, rate_hz: float) -> None:
        import cv2

        if self._writer is None:
            from vggt_ros.export.files import atomic_path

            path = self._stack.enter_context(atomic_path(self.folder / VIDEO))
            self._size = (picture.shape[1], picture.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(path), code, max(rate_hz, 1.0), self._size)
            if not self._writer.isOpened():
                raise ExportError(
                    f"cannot write {self.folder / VIDEO}: this OpenCV writes no mp4v of "
                    f"{self._size[0]}x{self._size[1]}; use --no_video"
                )
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _keep(self, picture: Image) -> None:
        now = time.monotonic()
        if now - self._written_s >= _LATEST_PERIOD_S:
            self._written_s = now
            _write_png(self.folder / LATEST, picture)
        if self.snapshot_every and self.sets % self.snapshot_every == 0:
            _write_png(self.folder / f"snapshot_{self.sets:06d}.png", picture)

    def close(self) -> None:
        """End the video; after an error, too, it is whole as far as it goes."""
        if self._writer is not None:
            self._writer.release()
        self._stack.close()


def _inverse(values: Float32) -> Float32:
    """Depth, up to scale and shift, of disparity."""
    import numpy as np

    # colour_depth takes the inverse again; zero is as far as it goes and not a hole
    return np.asarray(1.0 / np.maximum(values, 1e-6), np.float32)


def _write_png(path: Path, picture: Image) -> None:
    import cv2

    from vggt_ros.export.files import atomic_write

    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ExportError(f"cannot write {path}: OpenCV could not encode it")
    with atomic_write(path) as file:
        file.write(data.tobytes())


def _is_shown(picture: Image) -> bool:
    """Draw into the window; False when a person closed it."""
    import cv2

    try:
        cv2.imshow("depth", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return (cv2.waitKey(1) & 0xFF) not in (27, ord("q"))
    except cv2.error as error:
        raise ConfigError(
            "--show: this OpenCV has no windows, or there is no screen; look at latest.png and "
            "depth.mp4, or pip install opencv-python instead of opencv-python-headless"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
