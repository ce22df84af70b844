"""A result against a reference: everything that both hold, as a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vggt_ros.errors import ConfigError, nearest
from vggt_ros.evaluation.cameras import Align, CameraErrors, evaluate_cameras
from vggt_ros.evaluation.clouds import CloudErrors, evaluate_cloud
from vggt_ros.evaluation.files import Comparable, match_names, to_json
from vggt_ros.evaluation.trajectories import TrajectoryErrors, evaluate_trajectory
from vggt_ros.geometry import Sim3


@dataclass(frozen=True)
class Comparison:
    """All that a result and a reference have in common, compared."""

    align: Align
    cameras: CameraErrors | None = None
    trajectories: dict[str, TrajectoryErrors] = field(default_factory=dict)
    cloud: CloudErrors | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of the `--json` file; lengths in metres, angles in degrees."""
        data: dict[str, Any] = to_json(self)
        return data

    def table(self) -> str:
        """The figures for people."""
        rows: list[tuple[str, str]] = [("alignment", self.align)]
        if self.cameras is not None:
            rows += [("", ""), *_camera_rows(self.cameras)]
        for name, errors in self.trajectories.items():
            rows += [("", ""), *_trajectory_rows(name, errors)]
        if self.cloud is not None:
            rows += [("", ""), *_cloud_rows(self.cloud)]
        width = max(len(what) for what, _ in rows)
        lines = [f"{what.ljust(width)}  {value}".rstrip() for what, value in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def compare(
    found: Comparable,
    truth: Comparable,
    align: Align | None = None,
    camera: str = "",
    max_difference_ms: float = 10.0,
) -> Comparison:
    """Compare whatever both hold.

    Raises:
        ConfigError: they hold nothing of the same kind, or a cloud cannot be aligned.
        AlignmentError: nothing matches, or too little for the alignment.
    """
    with_cameras = bool(found.cameras and truth.cameras)
    with_poses = bool(found.trajectories and truth.trajectories)
    with_clouds = found.cloud is not None and truth.cloud is not None
    if not (with_cameras or with_poses or with_clouds):
        raise ConfigError(
            f"nothing to compare: {found.origin} holds {found.kinds}, {truth.origin} holds "
            f"{truth.kinds}"
        )
    notes: list[str] = []
    if align is None:
        align = _default_alignment(found, with_cameras or with_poses, notes)
    transform = Sim3.identity() if align == "none" else None
    cameras, trajectories, cloud = None, {}, None
    if with_poses:
        trajectories = _compare_trajectories(found, truth, align, camera, max_difference_ms)
        if len(trajectories) == 1:
            transform = next(iter(trajectories.values())).truth_from_found
    if with_cameras:
        cameras = _compare_cameras(found, truth, align)
        transform = cameras.truth_from_found
    if found.cloud is not None and truth.cloud is not None:
        if transform is None:
            raise ConfigError(
                f"--align {align}: clouds are aligned by their cameras; add --reference with the "
                "true cameras, or give --align none for clouds in the same frame"
            )
        cloud = evaluate_cloud(transform.apply(found.cloud.points), truth.cloud.points)
    return Comparison(align, cameras, trajectories, cloud, tuple(notes))


def _default_alignment(found: Comparable, with_poses: bool, notes: list[str]) -> Align:
    if not with_poses:
        notes.append("clouds are compared as they are; add a --reference with cameras to align")
        return "none"
    is_metric = found.is_metric
    if is_metric is None and found.cloud is not None:
        is_metric = found.cloud.is_metric
    if is_metric is None:
        notes.append("the result does not say whether it is metric; --align sim3 frees the scale")
        return "se3"
    return "se3" if is_metric else "sim3"


def _compare_cameras(found: Comparable, truth: Comparable, align: Align) -> CameraErrors:
    pairs = match_names(found.cameras, truth.cameras)
    return evaluate_cameras(
        {name: found.cameras[pairs[name]] for name in pairs} or found.cameras,
        truth.cameras,
        align,
    )


def _compare_trajectories(
    found: Comparable, truth: Comparable, align: Align, camera: str, max_difference_ms: float
) -> dict[str, TrajectoryErrors]:
    ours, theirs = found.trajectories, truth.trajectories
    if camera:
        if camera not in ours:
            raise ConfigError(
                f"--camera {camera}: {found.origin} has no such trajectory"
                f"{nearest(camera, ours)}; it has {_listed(ours)}"
            )
        ours = {camera: ours[camera]}
        theirs = {camera: theirs[camera]} if camera in theirs else theirs
    if len(ours) == 1 and len(theirs) == 1:
        pairs = {next(iter(ours)): (*ours.values(), *theirs.values())}
    else:
        matched = match_names(ours, theirs)
        pairs = {name: (ours[matched[name]], theirs[name]) for name in matched}
    if not pairs:
        raise ConfigError(
            f"trajectories: {found.origin} has {_listed(ours)}, {truth.origin} has "
            f"{_listed(theirs)}; choose one with --camera"
        )
    limit_ns = round(max_difference_ms * 1e6)
    return {
        name: evaluate_trajectory(a, b, align, max_difference_ns=limit_ns)
        for name, (a, b) in pairs.items()
    }


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(name or "one without a name" for name in names)


def _camera_rows(e: CameraErrors) -> list[tuple[str, str]]:
    rows = [("cameras", f"{len(e.cameras)} of {len(e.cameras) + len(e.missing)}")]
    if e.missing:
        rows.append(("  missing", ", ".join(e.missing)))
    return [
        *rows,
        ("  pairwise rotation", _two(e.pairwise_rotation_median_deg, e.pairwise_rotation_max_deg)),
        ("  rotation", _two(e.rotation_median_deg, e.rotation_max_deg)),
        (
            "  centre",
            f"RMSE {e.centre_rmse:.4f} m, median {e.centre_median:.4f} m, max "
            f"{e.centre_max:.4f} m ({100 * e.centre_rmse_fraction:.2f} % of the rig)",
        ),
        ("  scale", f"{100 * e.scale_error:+.3f} % (truth / found {e.scale:.6g})"),
        ("  size of the rig", f"{e.rig_size:.4f} m"),
    ]


def _trajectory_rows(name: str, e: TrajectoryErrors) -> list[tuple[str, str]]:
    return [
        (f"trajectory {name}".strip(), f"{e.matched} poses of {e.found} found, {e.truth} true"),
        (
            "  ATE",
            f"RMSE {e.ate_rmse:.4f} m, mean {e.ate_mean:.4f} m, median {e.ate_median:.4f} m, max "
            f"{e.ate_max:.4f} m",
        ),
        ("  rotation", f"median {e.rotation_median_deg:.3f} deg"),
        (
            f"  RPE over {e.rpe_step} pose{'s' * (e.rpe_step > 1)}",
            f"RMSE {e.rpe_translation_rmse:.4f} m, {e.rpe_rotation_rmse_deg:.3f} deg",
        ),
        ("  scale", f"truth / found {e.scale:.6g}"),
        ("  length", f"{e.length:.3f} m"),
    ]


def _cloud_rows(e: CloudErrors) -> list[tuple[str, str]]:
    return [
        ("cloud", f"{e.points:,} points, reference {e.reference_points:,} points"),
        (
            "  accuracy",
            f"median {e.accuracy_median:.4f} m, mean {e.accuracy_mean:.4f} m, 90 % "
            f"{e.accuracy_90:.4f} m",
        ),
        ("    share", _shares(e.accuracy)),
        ("  completeness", f"median {e.completeness_median:.4f} m"),
        ("    share", _shares(e.completeness)),
        ("  F-score", _shares(e.f_score)),
    ]


def _two(median: float, largest: float) -> str:
    return f"median {median:.3f} deg, max {largest:.3f} deg"


def _shares(shares: dict[float, float]) -> str:
    return ", ".join(f"{100 * v:.1f} % at {100 * k:g} cm" for k, v in shares.items())
