"""One scale from several sources that may contradict each other.

All is done in logarithms, with relative sigmas. The rule (decision 0014):

1. Sources whose scatter their sigmas explain (chi square below its 95 % quantile) are averaged by
   inverse variance.
2. Else, of three or more: where leaving out one source, and only that one, makes the others
   agree, it is left out and named.
3. Else all stay, and each gets the same additional variance, which makes their scatter what is to
   be expected (Paule and Mandel, "Consensus values and weighting factors", J. Res. NBS 87, 1982);
   all are named. Of two it is the middle, with half their distance as sigma. (Birge's ratio would
   stay with the one that claims the smallest sigma, however far the other is.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.config import Config, ScaleConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.types import AlignedScene, Float64, ScaleEstimate, ScaleSource

_LOG = logging.getLogger(__name__)

_CHI_SQUARE_95 = (0.0, 3.841, 5.991, 7.815, 9.488)
"""95 % quantile by degrees of freedom; there are five sources."""

_LEAST_RELATIVE_SIGMA = 1e-6
"""Of a source that claims to be exact."""

_ADVICE = {
    ScaleSource.RIG: "give rig_from_camera of two cameras that are registered and apart (rig file "
    "or TF)",
    ScaleSource.ODOMETRY: "let the rig move while it bootstraps (sfm.sets), with its place in TF "
    "(frame.odom)",
    ScaleSource.DEPTH_CAMERA: "give camera.<name>.depth_topic of an aligned depth image",
    ScaleSource.METRIC_MODEL: "set depth: depth_anything with a network of metric depth",
    ScaleSource.PARAMETER: "give it",
}


@dataclass(frozen=True)
class NoScale:
    """A source that cannot tell the scale, and why."""

    source: ScaleSource
    reason: str

    @property
    def is_metric(self) -> bool:
        """As of a `ScaleEstimate`: never."""
        return False


Evidence = ScaleEstimate | NoScale
"""What one source says."""


def fuse_scales(estimates: Sequence[ScaleEstimate]) -> ScaleEstimate:
    """One estimate from those of different sources, by the rule above.

    Args:
        estimates: at least one, all metric, of one scene [metres per scene unit].

    Returns:
        `sources` in the order of their sigmas; `contradiction` where the rule's second or third
        part was needed.
    """
    ordered = sorted(estimates, key=_relative_sigma)
    if len(ordered) == 1:
        return ordered[0]
    logs = np.log([e.value for e in ordered])
    variances = np.array([max(_relative_sigma(e), _LEAST_RELATIVE_SIGMA) for e in ordered]) ** 2
    used = np.ones(len(ordered), bool)
    extra, contradiction = 0.0, ""
    if not _agree(logs, variances):
        outlier = _outlier(logs, variances)
        if outlier is not None:
            used[outlier] = False
            contradiction = (
                f"scale: {_told(ordered[outlier])} contradicts "
                f"{_all_told([e for k, e in enumerate(ordered) if k != outlier])} and is left out"
            )
        else:
            extra = _additional_variance(logs, variances)
            contradiction = (
                f"scale: {_all_told(ordered)} contradict each other; the published sigma covers "
                "them"
            )
    mean, sigma = _weighted_mean(logs[used], variances[used] + extra)
    kept = tuple(e.source for k, e in enumerate(ordered) if used[k])
    value = math.exp(mean)
    return ScaleEstimate(
        value, value * sigma, kept[0], kept if len(kept) > 1 else (), contradiction
    )


def choose_scale(evidence: Sequence[Evidence], config: ScaleConfig) -> ScaleEstimate | None:
    """What `scale.source` asks for, from all that the sources say; None: no metric unit.

    A parameter without sigma cannot be weighed: it counts only where nothing else gives a scale.

    Raises:
        AlignmentError: the source that is named gives no scale, with the reason.
    """
    if config.source == "none":
        return None
    if config.source != "auto":
        return _named(evidence, ScaleSource(config.source), config)
    metric = [e for e in evidence if isinstance(e, ScaleEstimate)]
    weighed = [e for e in metric if e.source is not ScaleSource.PARAMETER or e.sigma > 0]
    if not metric:
        reasons = "; ".join(
            f"{e.source.value}: {e.reason}" for e in evidence if isinstance(e, NoScale)
        )
        _LOG.warning("scale: unknown (%s); the map has no metric unit", reasons)
        return None
    fused = fuse_scales(weighed or metric)
    if fused.contradiction:
        _LOG.warning("%s", fused.contradiction)
    return fused


def check_metric(scale: ScaleEstimate, config: ScaleConfig) -> None:
    """Refuse a map without metric unit where `scale.require_metric` is set.

    Raises:
        AlignmentError: it is set, and the source is NONE.
    """
    if config.require_metric and not scale.is_metric:
        raise AlignmentError(
            "scale: scale.require_metric is set, but nothing gives the scale; give "
            "rig_from_camera of two cameras (rig_file or TF), camera.<name>.depth_topic, odometry "
            "(frame.odom) or scale.metres_per_unit (docs/scale.md)"
        )


def withholds(config: Config, scene: AlignedScene | None) -> bool:
    """Whether nothing of a map may leave: it has no metric unit where one is required."""
    return config.scale.require_metric and scene is not None and not scene.scale.is_metric


def _named(
    evidence: Sequence[Evidence], source: ScaleSource, config: ScaleConfig
) -> ScaleEstimate:
    found = next((e for e in evidence if e.source is source), None)
    if isinstance(found, ScaleEstimate):
        return found
    if source is ScaleSource.PARAMETER:
        raise AlignmentError(
            "scale.source parameter: expected scale.metres_per_unit > 0, got "
            f"{config.metres_per_unit:g}; give it, or choose another scale.source"
        )
    why = found.reason if found is not None else "nothing of it has come"
    name = source.value.replace("_", " ")
    raise AlignmentError(
        f"scale.source {source.value}: the {name} gives no scale: {why}; {_ADVICE[source]}, or "
        "choose another scale.source"
    )


def _relative_sigma(estimate: ScaleEstimate) -> float:
    return estimate.sigma / estimate.value


def _weighted_mean(logs: Float64, variances: Float64) -> tuple[float, float]:
    weights = 1 / variances
    return float(weights @ logs / weights.sum()), float(1 / math.sqrt(weights.sum()))


def _chi_square(logs: Float64, variances: Float64) -> float:
    mean, _ = _weighted_mean(logs, variances)
    return float(((logs - mean) ** 2 / variances).sum())


def _agree(logs: Float64, variances: Float64) -> bool:
    limit = _CHI_SQUARE_95[min(len(logs), len(_CHI_SQUARE_95)) - 1]
    return _chi_square(logs, variances) <= limit


def _outlier(logs: Float64, variances: Float64) -> int | None:
    """The only source without which the others, two or more, agree."""
    if len(logs) < 3:
        return None
    found = []
    for k in range(len(logs)):
        rest = np.arange(len(logs)) != k
        if _agree(logs[rest], variances[rest]):
            found.append(k)
    return found[0] if len(found) == 1 else None


def _additional_variance(logs: Float64, variances: Float64) -> float:
    """That makes chi square equal to its expectation; by bisection, for it falls steadily."""
    low, high = 0.0, float(np.ptp(logs)) ** 2
    for _ in range(60):
        middle = (low + high) / 2
        if _chi_square(logs, variances + middle) > len(logs) - 1:
            low = middle
        else:
            high = middle
    return high


def _told(estimate: ScaleEstimate) -> str:
    return f"{estimate.source.value} ({estimate.value:.4g} +- {estimate.sigma:.2g} m per unit)"


def _all_told(estimates: Sequence[ScaleEstimate]) -> str:
    return " and ".join(_told(e) for e in estimates)
