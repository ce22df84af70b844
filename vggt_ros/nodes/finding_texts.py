"""Every state and fault that `/diagnostics` can name, with its cause and what to do about it.

`docs/diagnostics.md` is written from here (`python -m vggt_ros.cli.generate`). No ROS in this
file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OK, WARN, ERROR = "OK", "WARN", "ERROR"


@dataclass(frozen=True)
class Kind:
    """One sentence that `/diagnostics` may hold."""

    level: str
    text: str
    """With the names of figures in braces."""
    cause: str
    remedy: str


PIPELINE: dict[str, Kind] = {
    "unconfigured": Kind(
        OK,
        "unconfigured",
        "nothing is loaded yet, or it was cleaned up",
        "`ros2 lifecycle set /mapper configure`, or `autostart: true`",
    ),
    "inactive": Kind(
        OK,
        "inactive",
        "loaded, not subscribed; the map is kept",
        "`ros2 lifecycle set /mapper activate`",
    ),
    "bootstrapping": Kind(
        WARN,
        "bootstrapping: {detail}",
        "camera poses and a first map are being sought; the detail says what is waited for",
        "wait; if it stays, see that every camera sends images and CameraInfo, and the tf tree",
    ),
    "mapping": Kind(OK, "mapping", "the map is kept current", "nothing"),
    "paused": Kind(
        OK, "paused", "`~/pause` with `data: true`; images are dropped", "`~/pause` with `false`"
    ),
    "failed": Kind(
        ERROR,
        "failed: {detail}",
        "the last bootstrap failed for the reason given; it is tried again every "
        "`sfm.retry_period_s`",
        "what the reason says; where the poses are known from TF or a rig file, "
        "`bootstrap: rig` needs no overlap",
    ),
    "error processing": Kind(
        ERROR,
        "stopped by an internal error: {detail}; configure it again",
        "a fault of the program itself, not of one image: the worker thread failed "
        "`max_internal_errors` times in a row, or ended",
        "the log has the traceback: report it; `ros2 lifecycle set /mapper configure` starts "
        "again; `after_error: exit` ends the process and the launch, so that systemd starts "
        "both again",
    ),
    "unscaled": Kind(
        WARN,
        "mapping without scale: lengths are not metres",
        "nothing tells the scale: no rig poses, odometry, depth camera or parameter",
        "give `rig_from_camera` of two cameras (TF or rig file), or see `scale.source`; "
        "`scale.require_metric: true` refuses such maps",
    ),
    "contradiction": Kind(
        WARN,
        "{text}",
        "sources of scale contradict each other beyond their sigmas; `docs/scale.md` says what is "
        "published then",
        "the figures tell which unit or calibration is wrong; `~/check_rig` names a bumped "
        "camera; `scale.source` uses one source only",
    ),
    "memory": Kind(
        WARN,
        "map memory at {share:.0%} of its budget of {budget_mb:.0f} MB: the least certain and "
        "oldest points go, and old keyframes of a rig that moves",
        "the map is as large as `map.budget_mb` allows",
        "raise `map.budget_mb`, coarser `map.voxel_m`, smaller `map.max_depth_m`, or accept it",
    ),
    "drift": Kind(
        WARN,
        "the scale has drifted by {drift:+.1%} since the bootstrap",
        "later sets contradict the scale of the bootstrap: a camera was moved, or it was wrong",
        "`~/check_rig` names a bumped camera; `~/bootstrap` starts again",
    ),
    "overlap": Kind(
        WARN,
        "the cameras hardly overlap: half of them share less than {overlap:.0%} of their view "
        "with another; depth: plane_sweep sees nothing there",
        "the rig looks around instead of at one scene",
        "`bootstrap: rig` with poses from TF or a rig file, and `depth: depth_anything`; or turn "
        "the cameras towards each other",
    ),
    "no place": Kind(
        WARN,
        "no place of the rig for {seconds:.0f} s",
        "`motion: tf`, and TF had no transform at the stamp of the newest sets; the detail names "
        "the frames",
        "a moment is a gap; if it stays, see that odometry or the other localiser runs, that its "
        "clock is that of the cameras, and `frame.tf_wait_ms`",
    ),
    "no place for long": Kind(
        ERROR,
        "no place of the rig for {seconds:.0f} s: TF has stopped",
        "`motion: tf`, and nothing publishes the place of the rig any more; sets are dropped, the "
        "map is kept",
        "start odometry or the other localiser again; mapping goes on by itself",
    ),
    "long step": Kind(
        WARN,
        "the set in hand has taken {seconds:.0f} s so far",
        "a bootstrap of many views on a slow or busy computer, or an engine that hangs",
        "wait; `sfm.max_image_px` and `sfm.max_features` make bootstraps faster; if it never "
        "ends, restart the process",
    ),
    "internal errors": Kind(
        WARN,
        "{count} sets were left out for internal errors; see the log",
        "a fault of the program itself that did not repeat",
        "report the traceback in the log",
    ),
    "publishing errors": Kind(
        WARN,
        "{count} messages could not be published; see the log",
        "a fault of the program itself while messages were made",
        "report the traceback in the log",
    ),
    "clock jump": Kind(
        WARN,
        "the clock jumped back ({count} times so far)",
        "a bag was looped, the simulation restarted, or a computer's clock was set",
        "nothing for bags; else keep clocks steady (chrony with slewing)",
    ),
    "no sets": Kind(
        WARN,
        "images come, but no set for {seconds:.0f} s; most were dropped as '{reason}'",
        "stamps of the cameras differ by more than `ingest.max_skew_ms`, a camera is missing, "
        "or all images are faulty",
        "the row of that reason below; `vggt-ros check` on a bag shows the skew of each pair",
    ),
    "dropping": Kind(
        WARN,
        "{share:.0%} of the last images were dropped, most as '{reason}'",
        "the computer is too slow for the rate (overflow), or the input is faulty",
        "the row of that reason below; lower the rate of the cameras",
    ),
}
"""Of the status `<node>: pipeline`."""

CAMERA: dict[str, Kind] = {
    "not subscribed": Kind(
        OK, "not subscribed", "the node is not active", "activate it to see how the camera is"
    ),
    "sends": Kind(OK, "{rate:.1f} Hz", "all is well", "nothing"),
    "calibration": Kind(
        ERROR,
        "{text}",
        "its CameraInfo is impossible (NaN, no focal length, unknown distortion, ...); the text "
        "says what was expected",
        "calibrate again, or give the intrinsics in a rig file",
    ),
    "never sent": Kind(
        ERROR,
        "no image ever came on {topic}",
        "the driver does not run, or publishes elsewhere",
        "`ros2 topic list`, `ros2 topic hz`; set `camera.<name>.image_topic` and `.transport`",
    ),
    "silent": Kind(
        ERROR,
        "no image on {topic} for {seconds:.0f} s",
        "the driver died, the cable is out, or the network is",
        "restart the driver; sets go on without it after `ingest.silent_after_s`",
    ),
    "fault": Kind(
        WARN,
        "{text}",
        "a message could not be used, or an incompatible QoS; the text says what was expected",
        "see `docs/bad_input.md`",
    ),
    "clock": Kind(
        WARN,
        "camera '{name}': stamps are {seconds:.2f} s {direction} the others; synchronise its "
        "clock (chrony/ptp)",
        "the computer or camera that stamps its images has another clock than the others; or "
        "its images are under way for so long",
        "chrony or ptp on that computer, or let the driver stamp with the time of arrival; a "
        "known delay: raise `diagnostics.max_clock_offset_s`",
    ),
    "old": Kind(
        WARN,
        "stamps are {seconds:.3g} s old when they arrive",
        "slow transport, clocks that are not synchronised, or a bag played without its clock",
        "the shared-memory profile, chrony/ptp, or `use_sim_time` with `clock: true` of the "
        "player; `diagnostics.max_stamp_age_s`",
    ),
    "future": Kind(
        WARN,
        "stamps are {seconds:.3g} s in the future",
        "its clock is ahead of this computer's",
        "synchronise clocks (chrony/ptp)",
    ),
    "skew": Kind(
        WARN,
        "stamps differ from those of their sets by {milliseconds:+.1f} ms",
        "the cameras are not triggered together",
        "trigger by hardware; for what moves fast this is motion blur between views",
    ),
    "slow": Kind(
        WARN,
        "{rate:.1f} Hz, expected {expected:.1f} Hz",
        "the driver is slow (exposure in the dark, USB bandwidth), or images are lost",
        "driver settings, the shared-memory profile; `diagnostics.min_rate_hz`",
    ),
    "set back": Kind(
        WARN,
        "its stamps went back while those of the others go on; it is left out until they are in "
        "time again",
        "its driver or computer has set its clock back, or it was started anew with another clock",
        "keep clocks steady (chrony with slewing); restart the driver",
    ),
    "unregistered": Kind(
        WARN,
        "without a place in the map, because it was silent or failed in the bootstrap; call "
        "~/bootstrap to start again with it",
        "the map was begun without it",
        "`ros2 service call /mapper/bootstrap std_srvs/srv/Trigger`",
    ),
    "no depth": Kind(
        WARN,
        "no depth: no other camera sees what it sees",
        "plane_sweep needs a second view of the same surface from elsewhere",
        "turn the cameras towards each other, or `depth: depth_anything`",
    ),
    "depth refused": Kind(
        WARN,
        "depth refused: {reason}",
        "its depth contradicts the map or the other cameras: it was moved, or sees no texture",
        "`~/check_rig`; light and texture; `align.*`",
    ),
    "few inliers": Kind(
        WARN,
        "only {inliers:.0%} of its depth agrees with the map",
        "the camera was moved, the scene has changed, or calibration is off",
        "`~/check_rig`, `~/bootstrap`; `diagnostics.min_inliers`",
    ),
}
"""Of the status `<node>: camera <name>`."""

RIG: dict[str, Kind] = {
    "OK": Kind(
        OK,
        "{count} cameras are where the rig says",
        "what the newest images show agrees with TF or the rig file",
        "nothing",
    ),
    "WARN": Kind(
        WARN,
        "'{name}': not where the rig says: {residuals}",
        "the camera was bumped or turned, or its place was never right; farther than "
        "`check_rig.warn_*`, and not by chance",
        "check again with other things in view; then `~/check_rig` with `path` or `urdf_path` "
        "writes the places found; `docs/scale.md`",
    ),
    "ERROR": Kind(
        ERROR,
        "'{name}': not where the rig says: {residuals}",
        "as above, farther than `check_rig.error_*`: depth and map suffer",
        "mend the mount or take the places found, then `~/bootstrap`",
    ),
    "UNKNOWN": Kind(
        WARN,
        "check_rig: {text}",
        "the images did not register, or fewer than two cameras have a place on the rig",
        "what the text says: texture, overlap, `rig_from_camera`",
    ),
}
"""Of the status `<node>: rig check`, by its levels; the texts are made by `pipeline.check_rig`."""

TOPICS: dict[str, Kind] = {
    "match": Kind(OK, "all that meet are compatible", "all is well", "nothing"),
    "incompatible": Kind(
        WARN,
        "incompatible QoS: {text}",
        "a publisher offers less than its subscriber asks for, so nothing flows between them",
        "`qos_overrides.<topic>.publisher.*` or `.subscription.*`, or `ingest.reliability`; "
        "for the map in RViz: Durability Transient Local",
    ),
}
"""Of the status `<node>: topics`."""

DROPS: dict[str, tuple[str, str]] = {
    "duplicate": ("stamp of the camera's image before", "the driver or player sends twice"),
    "out_of_order": (
        "older than the camera's image before",
        "two publishers on one topic, or a network that reorders",
    ),
    "late": (
        "its set was already taken without it",
        "raise `ingest.min_cameras` or `ingest.queue_size`; a slow link",
    ),
    "unmatched": (
        "no image of enough other cameras within `ingest.max_skew_ms`",
        "cameras without a common trigger, clocks that differ, lost messages; raise "
        "`ingest.max_skew_ms`",
    ),
    "overflow": (
        "still waiting when the queue was full",
        "mapping is slower than the cameras: lower their rate or `plane_sweep.width`; or a "
        "camera is missing",
    ),
    "clock_jump": ("waiting when a clock was set back", "see 'clock jump' above"),
    "set_back": (
        "the camera's clock alone was set back by more than a second",
        "synchronise its clock (chrony, ptp); it is taken again when its stamps are in time",
    ),
    "reset": ("waiting when scene and map were reset", "nothing"),
    "inactive": ("waiting when the node was activated or deactivated", "nothing"),
    "paused": ("came or waited while paused", "`~/pause` with `data: false`"),
    "uncalibrated": (
        "no CameraInfo yet and `ingest.require_calibration`",
        "publish CameraInfo, or give a rig file",
    ),
    "corrupt": ("a JPEG or PNG that cannot be decoded", "cable, driver, network"),
    "encoding": ("an encoding without colours", "subscribe the colour topic, not depth"),
    "size_changed": (
        "not of the size of the camera's first image",
        "`~/reset` after a change of resolution",
    ),
    "calibration": ("CameraInfo does not fit the image", "calibrate at this resolution"),
    "incomplete": (
        "whole, but too few others of its set could be decoded",
        "see the reasons of the other cameras",
    ),
    "unreadable image": (
        "a message without the bytes it declares, of an unknown encoding, or too large",
        "the text of the camera; `docs/bad_input.md`",
    ),
    "unreadable depth": (
        "a message on a depth topic that is no image of the camera",
        "the text of the camera; `camera.<name>.depth_topic`",
    ),
    "depth": (
        "a depth image that is none (encoding, PNG) or does not fit its colour image",
        "`camera.<name>.depth_topic` must name 16UC1 or 32FC1, aligned to the colour image",
    ),
    "internal error": ("a fault of the program itself", "report the traceback in the log"),
    "no depth accepted": (
        "a set of which no camera's depth agreed with the map",
        "the cameras' own rows; `align.*`",
    ),
    "collected for the bootstrap": ("sets that are reconstructed together", "nothing"),
    "bootstrap failed": ("a bootstrap that failed", "see 'failed' above"),
    "waiting to try the bootstrap again": (
        "came within `sfm.retry_period_s` of a failure",
        "see 'failed' above",
    ),
    "too little motion": (
        "motion estimate: the camera has not moved since the last keyframe",
        "nothing; the map is what it was",
    ),
    "window failed": (
        "motion estimate: keyframes that could not be registered or joined",
        "slower motion, more light and texture, `motion: tf` with odometry",
    ),
    "window by odometry": (
        "motion estimate: keyframes whose places odometry gave, for the images did not",
        "as above",
    ),
    "loop failed": (
        "motion estimate: a place that was recognised but did not fit",
        "nothing; it is tried again",
    ),
    "no transform": (
        "motion tf (often with the frames' names): no transform at the stamp of the set within "
        "the wait",
        "odometry or localiser publishes `/tf` too late or not at all; synchronise clocks",
    ),
    "AlignmentError": ("a set that could not be aligned", "the detail of the status"),
    "CalibrationError": ("a set whose calibration is impossible", "the detail of the status"),
    "ConfigError": ("a set that does not fit a parameter", "the detail of the status"),
    "EngineError": ("a network that failed on a set", "the detail; `vggt-ros engine verify`"),
    "ExportError": ("something that could not be written", "the detail of the status"),
    "SourceError": ("images that could not be read", "the detail of the status"),
    "VggtRosError": ("another error of a set", "the detail of the status"),
}
"""Reasons why images and sets are left out (`dropped: <reason>`): meaning and what to do."""


def diagnostics_markdown() -> str:
    """The tables of `docs/diagnostics.md`."""
    lines: list[str] = []
    for title, kinds in (
        ("`<node>: pipeline`", PIPELINE),
        ("`<node>: camera <name>`", CAMERA),
        ("`<node>: topics`", TOPICS),
        ("`<node>: rig check`", RIG),
    ):
        lines += [
            f"## {title}",
            "",
            "| level | message | cause | what to do |",
            "|---|---|---|---|",
        ]
        lines += [
            "| " + " | ".join(_cell(c) for c in (k.level, shown(k.text), k.cause, k.remedy)) + " |"
            for k in kinds.values()
        ]
        lines.append("")
    lines += [
        "## Reasons of drops",
        "",
        "| `dropped: ...` | meaning | cause or what to do |",
        "|---|---|---|",
        *(f"| {reason} | {_cell(a)} | {_cell(b)} |" for reason, (a, b) in DROPS.items()),
    ]
    return "\n".join(lines) + "\n"


def shown(text: str) -> str:
    """A text with the names of its figures, without how they are formatted."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
