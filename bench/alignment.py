"""What bounds the depth alignment on the indoor sequence: its floor, part by part.

`bench.map_accuracy` has the goals. Their errors are made of: the recorded depth, which two frames
see differently; the depth rendered from the map, which is too near; and the fit to it.
"""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np

from bench import map_accuracy
from bench.figures import Figure, at_most, shared_data
from bench.map_accuracy import MODEL, Recorded
from vggt_ros.geometry import Rigid3

REACH = 12
"""Frames so far before and after are compared with one."""


class _Exact:
    """A map without any error: it renders what was recorded."""

    def __init__(self, frames: list[Recorded]) -> None:
        self._depths = {id(f.map_from_camera): f.depth for f in frames}

    def render(self, model: object, map_from_camera: Rigid3) -> SimpleNamespace:
        return SimpleNamespace(depth=self._depths[id(map_from_camera)])


def figures() -> list[Figure]:
    """Floors of bias and transfer; nothing without the data."""
    data = shared_data()
    if data is None:
        print("bench: without the indoor sequence (shared data not found)")
        return []
    folder = data / "indoor_sequence"
    names = sorted(p.name[: -len(".depth.png")] for p in folder.glob("*.depth.png"))
    frames = [Recorded(name, folder) for name in names]
    surfel_map = map_accuracy.fused(frames[::2])
    rendered = [surfel_map.render(MODEL, f.map_from_camera).depth for f in frames]
    of_map = [_bias(r, f.depth) for r, f in zip(rendered, frames, strict=True)]
    open_space = [_bias(_far_from_edges(r), f.depth) for r, f in
                  zip(rendered, frames, strict=True)]  # fmt: skip
    of_frames = [_bias_of_neighbours(k, frames) for k in range(len(frames))]
    exact = map_accuracy._alignment_figures(_Exact(frames), frames)  # type: ignore[arg-type]
    return [
        Figure("depth rendered from the map, median of |bias|", _median(of_map), "%"),
        Figure("the same, 10 px and more from edges", _median(open_space), "%"),
        Figure(f"depth of the {REACH} frames before and after, median of |bias|",
               _median(of_frames), "%"),
        *[Figure(f"with the recorded depth in place of the map: {f.name}", f.value, f.unit)
          for f in exact[1:]],
        at_most("true parameters: depth against the neighbouring frame, median",
                100 * map_accuracy._recorded_transfer(frames), "%", 0.4),
    ]  # fmt: skip


def _median(biases: list[float]) -> float:
    return 100 * float(np.median(np.abs(biases)))


def _bias(depth: np.ndarray, truth: np.ndarray) -> float:
    return float(np.nanmedian(depth / truth)) - 1


def _far_from_edges(depth: np.ndarray, margin_px: int = 10) -> np.ndarray:
    filled = np.nan_to_num(depth)
    kernel = np.ones((3, 3), np.uint8)
    spread = cv2.dilate(filled, kernel) - cv2.erode(filled, kernel)
    edge = (spread > 0.05 * np.maximum(filled, 1e-6)).astype(np.uint8)
    near = cv2.dilate(edge, np.ones((2 * margin_px + 1,) * 2, np.uint8))
    return np.where(near > 0, np.nan, depth)


def _bias_of_neighbours(index: int, frames: list[Recorded]) -> float:
    """Median of (depth of the points of other frames / recorded depth) - 1."""
    ratios = []
    for other in range(max(0, index - REACH), min(len(frames), index + REACH + 1)):
        if other == index:
            continue
        points = map_accuracy._points(frames[other])
        found, z = map_accuracy._seen(points, frames[index])
        ratio = z / found - 1
        ratios.append(ratio[np.abs(ratio) < 0.05])
    return float(np.median(np.concatenate(ratios)))


if __name__ == "__main__":
    for figure in figures():
        print(f"{figure.name}: {figure.value:.3g} {figure.unit} {figure.goal}")
