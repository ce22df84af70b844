"""Do the views of a dense scene really show the same things?

A network answers for any images, also for such that have nothing in common. Its depth of one view,
put into another, tells: what both see must have one depth there, and look alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import AlignmentError
from vggt_ros.types import Float32, Float64, UnscaledScene, View

DEPTH_TOLERANCE = 0.05
"""Relative difference of two depths of one point. VGGT's views agree within 1 to 3 %."""

MIN_LIKENESS = 0.4
"""Least correlation of what two views show of the same points. Right poses give 0.95 to 0.98 in
the synthetic room and 0.73 to 0.87 on the photographs of `room5`, with 1 degree and 3 % of depth
wrong 0.75 to 0.9; 2 % of the width wrong leave 0.4 to 0.8 on `indoor_sequence`. A network that
says "one place, one plane", whose depths all agree, gets -0.1 to 0.12 in the room, up to 0.44
before blank walls, and 0.4 to 0.77 on `room5`, whose views are near each other: hence the next."""

ALIKE_ANYWAY = 0.8
MIN_GAIN = 0.1
"""Below the first, the answer must make images more alike than they are pixel by pixel, by the
second at least. Where they are as alike as that without it, the cameras hardly moved."""

_SAMPLES = 4096
"""Pixels of a view that are looked up in the others."""
_MIN_SAMPLES = 50
"""Fewer have no correlation worth the name."""
_FINE, _COARSE = 0.006, 0.06
"""Images are compared between these two scales (sigma of a Gaussian, part of the width): finer
than what VGGT's poses promise, and coarser than what light and walls have in common anyway."""


@dataclass(frozen=True)
class Overlap:
    """What two views have in common, by their indices."""

    first: int
    second: int
    landed: float
    """Part of the first view's pixels that fall into the second, or the reverse: the larger."""
    consistent: float
    """The same for those that have the second view's depth there."""
    likeness: float
    """Correlation of the two images over them, -1 to 1; NaN where they are too few."""
    unmoved: float = math.nan
    """The same if each pixel is compared with the one at its own place, as without an answer."""

    def confirms(self, min_overlap: float) -> bool:
        """Whether they show the same things."""
        gains = not self.likeness < self.unmoved + MIN_GAIN
        looks = self.likeness >= MIN_LIKENESS and (gains or self.likeness >= ALIKE_ANYWAY)
        return self.consistent >= min_overlap and looks


def measure_overlaps(views: Sequence[View]) -> list[Overlap]:
    """Overlap of each pair of dense views.

    Args:
        views: with depth, rgb and `depth_model`.

    Raises:
        ValueError: a view without them.
    """
    samples = [_Samples(view) for view in views]
    found = []
    for i, first in enumerate(samples):
        for j in range(i + 1, len(samples)):
            there, back = first.into(samples[j]), samples[j].into(first)
            better = max(there, back, key=lambda o: (o[1], o[0]))
            found.append(Overlap(i, j, max(there[0], back[0]), *better[1:]))
    return found


def largest_group(count: int, overlaps: Sequence[Overlap], min_overlap: float) -> list[int]:
    """Indices of the most views that hang together by overlaps that are confirmed.

    Of equal ones the group with the lowest index: view 0 is the network's reference.
    """
    group = list(range(count))
    for overlap in overlaps:
        if overlap.confirms(min_overlap):
            old, new = group[overlap.second], group[overlap.first]
            group = [new if g == old else g for g in group]
    sizes = [group.count(g) for g in group]
    chosen = group[sizes.index(max(sizes))]
    return [k for k, g in enumerate(group) if g == chosen]


def keep_overlapping(scene: UnscaledScene, min_overlap: float, min_views: int) -> UnscaledScene:
    """The scene with only those views that hang together; the others count as failed.

    Points stay as they are.

    Raises:
        AlignmentError: fewer than `min_views` do; the message has the figures.
    """
    views = scene.views
    overlaps = measure_overlaps(views)
    kept = largest_group(len(views), overlaps, min_overlap)
    if len(kept) < min_views:
        lines = "; ".join(_told(k, views, overlaps) for k in range(len(views)))
        raise AlignmentError(
            f"{scene.bootstrapper}: expected at least {min_views} views that overlap, got "
            f"{len(kept)} of {len(views)}; a pair must have {min_overlap:.0%} of the pixels at "
            f"the same depth and a likeness of {MIN_LIKENESS}, more than the images have as they "
            "are, but the best of each have: "
            f"{lines}. Turn the cameras so that neighbours see the same things, give texture and "
            "light, or verify the engine: vggt-ros engine verify"
        )
    found = tuple(views[k] for k in kept)
    registered = {view.camera for view in found}
    left_out = dict.fromkeys(v.camera for v in views if v.camera not in registered)
    confirmed = [o for o in overlaps if o.first in kept and o.second in kept]
    statistics = dict(scene.statistics)
    statistics["registered"] = float(len(found))
    if confirmed:
        statistics["best_overlap"] = max(o.consistent for o in confirmed)
    return dataclasses.replace(
        scene,
        views=found,
        failed=tuple(dict.fromkeys((*scene.failed, *left_out))),
        statistics=statistics,
    )


def _told(index: int, views: Sequence[View], overlaps: Sequence[Overlap]) -> str:
    """The best partner of a view and its figures."""
    own = [o for o in overlaps if index in (o.first, o.second)]
    name = views[index].camera
    if not own:
        return f"{name}: no other view"
    best = max(own, key=lambda o: (o.confirms(0.0), o.consistent))
    partner = views[best.second if best.first == index else best.first].camera
    likeness = "none" if math.isnan(best.likeness) else f"{best.likeness:.2f}"
    unmoved = "" if math.isnan(best.unmoved) else f" (as they are {best.unmoved:.2f})"
    return f"{name} with {partner} {best.consistent:.1%}, likeness {likeness}{unmoved}"


class _Samples:
    """An even subset of a view's pixels, ready to be looked up in other views."""

    def __init__(self, view: View) -> None:
        depth, model = view.depth, view.depth_model
        if depth is None or model is None or view.rgb is None:
            raise ValueError(f"overlap: {view.camera}: expected a dense view with its image")
        self.view = view
        self.depth: Float32 = depth
        self.model = model
        self.detail = _detail(view.rgb)
        step = max(1, round(math.sqrt(depth.size / _SAMPLES)))
        v, u = np.mgrid[step // 2 : depth.shape[0] : step, step // 2 : depth.shape[1] : step]
        v, u = v.ravel(), u.ravel()
        valid = np.isfinite(depth[v, u])
        v, u = v[valid], u[valid]
        z = depth[v, u].astype(np.float64)
        x = (u - model.cx) / model.fx * z
        y = (v - model.cy) / model.fy * z
        self.points_in_scene: Float64 = view.scene_from_camera.apply(np.stack([x, y, z], axis=1))
        self.values = self.detail[v, u]
        self.places = np.stack([u, v], axis=1) / [depth.shape[1], depth.shape[0]]

    def into(self, other: _Samples) -> tuple[float, float, float, float]:
        """Parts of the samples that land in another view and agree there, and two likenesses.

        The first is over what agrees, the second over the same pixels, left where they are.
        """
        if not len(self.values):
            return 0.0, 0.0, math.nan, math.nan
        camera_from_scene = other.view.scene_from_camera.inverse()
        points = camera_from_scene.apply(self.points_in_scene)
        pixels = other.model.project(points)
        with np.errstate(invalid="ignore"):
            inside: NDArray[np.bool_] = (
                (pixels >= 0).all(axis=1)
                & (pixels[:, 0] <= other.model.width - 1)
                & (pixels[:, 1] <= other.model.height - 1)
            )
        u, v = np.rint(pixels[inside]).astype(np.int64).T
        with np.errstate(invalid="ignore"):
            agrees = np.abs(other.depth[v, u] / points[inside, 2] - 1) < DEPTH_TOLERANCE
        total = len(self.values)
        values = self.values[inside][agrees]
        likeness = _correlation(values, other.detail[v, u][agrees])
        height, width = other.detail.shape
        same = (self.places[inside][agrees] * [width, height]).astype(np.int64)
        unmoved = _correlation(values, other.detail[same[:, 1], same[:, 0]])
        return float(inside.sum() / total), float(agrees.sum() / total), likeness, unmoved


def _detail(rgb: NDArray[np.uint8]) -> Float32:
    """Grey levels without what is finer or coarser than the two scales."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    width = rgb.shape[1]
    fine = cv2.GaussianBlur(grey, (0, 0), max(_FINE * width, 0.5))
    coarse = cv2.GaussianBlur(grey, (0, 0), max(_COARSE * width, 1.0))
    return np.asarray(fine - coarse, np.float32)


def _correlation(a: Float32, b: Float32) -> float:
    if len(a) < _MIN_SAMPLES:
        return math.nan
    # beyond three deviations a highlight would outvote the rest
    a, b = (_limited(values) for values in (a, b))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def _limited(values: Float32) -> Float32:
    centred = values - values.mean()
    limit = 3.0 * float(centred.std())
    limited: Float32 = np.clip(centred, -limit, limit)
    return limited
