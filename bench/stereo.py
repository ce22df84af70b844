"""The plane sweep on the indoor sequence, with the poses that each figure names."""

from __future__ import annotations

from bench import plane_sweep
from bench.figures import Figure, at_least, at_most
from bench.indoor_sequence import load
from vggt_ros.config import PlaneSweepConfig

_FOUR, _FIVE = (0, 3, 6, 9), (0, 3, 6, 9, 12)


def figures() -> list[Figure]:
    """320x240 with three and four sources; given poses with the calibrated offset, refined."""
    found: list[Figure] = []
    starts = range(0, 48, 7)
    for poses in ("given", "refined"):
        frames = load(poses, 320)
        for offsets in (_FOUR, _FIVE):
            config = PlaneSweepConfig(width=320)
            rigs = plane_sweep.rigs_of(frames, starts, offsets)
            result = plane_sweep.run("", rigs, config)
            label = f"{poses} poses, {len(offsets) - 1} sources"
            if poses == "given":
                found.append(at_most(f"{label}: median error", 100 * result.median, "%", 4.5))
            else:
                found.append(at_most(f"{label}: mean error", 100 * result.abs_rel, "%", 6))
            least = 50 if poses == "given" else 45
            found.append(
                at_least(f"{label}: part of the pixels", 100 * result.coverage, "%", least)
            )
            found.append(at_most(f"{label}: a view", result.cpu_ms, "CPU-ms", 250))
            found += _reliability(label, result)
    return found


def _reliability(label: str, result: plane_sweep.Result) -> list[Figure]:
    """How far the confidence is from the part of the pixels within 5 %; bins of 0.1."""
    bins = [(c, p, w) for c, p, w in result.calibration if w >= 0.02]
    mean = sum(abs(c - p) * w for c, p, w in bins) / sum(w for _, _, w in bins)
    c, p, _ = max(bins, key=lambda b: abs(b[0] - b[1]))
    return [
        at_most(f"{label}: confidence, mean difference from what is right", mean, "", 0.05),
        Figure(f"{label}: the same, worst bin", abs(c - p), "", note=f"{p:.2f} right at {c:.2f}"),
    ]
