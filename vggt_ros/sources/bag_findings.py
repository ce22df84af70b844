"""What was found in a bag, and what follows for the bootstrappers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.sources.overlap import MIN_MATCHES, PairOverlap

LOW_TEXTURE = 0.3
"""Below this share of textured pixels neither features nor stereo have enough to hold on to."""


@dataclass
class CameraCheck:
    """One camera of the bag."""

    name: str
    topic: str
    frame_id: str = ""
    messages: int = 0
    size: tuple[int, int] | None = None
    rate_hz: float | None = None
    jitter_ms: float | None = None
    """Standard deviation of the time between images."""
    longest_gap_ms: float | None = None
    age_ms: float | None = None
    """Median time from the stamp to the recording; negative: the stamp lies in the future."""
    backwards: int = 0
    duplicates: int = 0
    unreadable: int = 0
    calibration: str = "none"
    """"pinhole", the distortion model, "none", or "error"."""
    has_pose: bool = False
    texture: float | None = None
    problems: list[str] = field(default_factory=list)


@dataclass
class PairCheck:
    """Two cameras of one set."""

    first: str
    second: str
    skew_ms: float | None = None
    """Median difference of stamps within a set."""
    overlap: PairOverlap | None = None


@dataclass
class Verdict:
    """Whether a bootstrapper will work."""

    works: bool
    reasons: list[str]


@dataclass
class BagCheck:
    """All that was found."""

    cameras: list[CameraCheck]
    pairs: list[PairCheck]
    sets: int
    dropped: dict[str, int]
    groups: list[list[str]]
    """Cameras connected by overlap, the largest group first."""
    verdicts: dict[str, Verdict]
    problems: list[str]

    @property
    def can_map(self) -> bool:
        """At least one bootstrapper works."""
        return any(verdict.works for verdict in self.verdicts.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "can_map": self.can_map}


def judge_camera(check: CameraCheck) -> None:
    """Add to `problems` what the figures of one camera mean."""
    say = check.problems.append
    if not check.messages:
        say(
            "never sends; leave it out of 'cameras' or set ingest.min_cameras, or no set will "
            "ever be complete"
        )
        return
    if check.unreadable:
        say(f"{check.unreadable} of {check.messages} images cannot be read")
    if check.backwards:
        say(f"stamps go back {check.backwards} times")
    if check.duplicates:
        say(f"{check.duplicates} images have the stamp of the one before")
    if check.longest_gap_ms and check.rate_hz and check.longest_gap_ms > 5e3 / check.rate_hz:
        say(f"a gap of {check.longest_gap_ms:.0f} ms")
    if check.texture is not None and check.texture < LOW_TEXTURE:
        say(
            f"little texture ({check.texture:.0%} of the pixels): features and stereo will be "
            f"poor; add light, or look at less blank surfaces"
        )


def _listed(names: list[str], total: int) -> str:
    """Names, or "all N" where a long list says no more."""
    return f"all {total}" if len(names) == total > 3 else ", ".join(names)


def overlap_groups(names: list[str], pairs: list[PairCheck]) -> list[list[str]]:
    """Cameras that are connected by overlap, the largest group first."""
    group = {name: {name} for name in names}
    for pair in pairs:
        if pair.overlap is not None and pair.overlap.is_connected:
            joined = group[pair.first] | group[pair.second]
            for name in joined:
                group[name] = joined
    unique = {frozenset(members) for members in group.values()}
    ordered = [[name for name in names if name in members] for members in unique]
    return sorted(ordered, key=lambda members: (-len(members), names.index(members[0])))


def judge_sfm(
    sending: list[str],
    pairs: list[PairCheck],
    groups: list[list[str]],
    checks: dict[str, CameraCheck],
) -> Verdict:
    """Structure from motion needs a connected graph of overlaps."""
    if len(sending) < 2:
        return Verdict(
            False,
            [f"{len(sending)} camera sends images; one set needs two views (sfm.sets > 1 and a "
             f"moving rig may do)"],
        )  # fmt: skip
    if not groups or len(groups[0]) < 2:
        best = max((p.overlap.verified for p in pairs if p.overlap), default=0)
        blank = [n for n in sending if (checks[n].texture or 0.0) < LOW_TEXTURE]
        reason = f"no two cameras overlap: at most {best} verified matches, {MIN_MATCHES} needed"
        if blank:
            reason += f"; little texture in {', '.join(blank)}"
        return Verdict(False, [reason])
    reasons = [f"{len(groups[0])} of {len(sending)} cameras are connected by overlap"]
    outside = [name for group in groups[1:] for name in group]
    if outside:
        reasons.append(f"cannot be registered: {', '.join(outside)} (too few verified matches)")
    inside = [p for p in pairs if p.overlap and p.overlap.is_connected]
    if all(p.overlap is not None and p.overlap.planar for p in inside):
        reasons.append(
            "every overlap is explained by a plane: a flat scene, or cameras in one place; the "
            "poses will be uncertain"
        )
    without = [name for name in groups[0] if checks[name].calibration in ("none", "error")]
    if without:
        reasons.append(f"intrinsics will be estimated: {_listed(without, len(sending))}")
    return Verdict(True, reasons)


def judge_rig(
    sending: list[str],
    pairs: list[PairCheck],
    models: dict[str, CameraModel],
    poses: dict[str, Rigid3],
) -> Verdict:
    """Given poses need intrinsics too, and one overlap for depth."""
    reasons = []
    for what, known in (("pose (TF or rig file)", poses), ("intrinsics", models)):
        missing = [name for name in sending if name not in known]
        if missing:
            reasons.append(f"no {what} of {_listed(missing, len(sending))}")
    usable = [name for name in sending if name in poses and name in models]
    if len(usable) < 2:
        reasons.insert(0, f"{len(usable)} cameras have both pose and intrinsics, 2 needed")
        return Verdict(False, reasons)
    overlapping = [
        p
        for p in pairs
        if p.overlap and p.overlap.is_connected and p.first in usable and p.second in usable
    ]
    if not overlapping:
        reasons.insert(0, "no two cameras with known poses overlap: no depth from plane_sweep")
        return Verdict(False, reasons)
    reasons.insert(0, f"poses and intrinsics of {len(usable)} of {len(sending)} cameras are given")
    return Verdict(True, reasons)
