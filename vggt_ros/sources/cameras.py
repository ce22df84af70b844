"""Cameras of a folder, set of videos or list of devices: their names, their choice, their rig."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vggt_ros.errors import ConfigError, SourceError, nearest
from vggt_ros.rig import Rig, RigCamera

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundCamera:
    """One camera before it is matched with a rig."""

    name: str
    keys: tuple[str, ...]
    """What a rig file may call it besides: its folder or file, with and without suffix."""


@dataclass(frozen=True)
class Views:
    """Which cameras are used.

    `names` are taken in their order. `random_count` draws that many, with `seed`, and keeps
    their natural order. `limit` keeps the first so many of the others.
    """

    names: tuple[str, ...] = ()
    random_count: int = 0
    limit: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        if self.names and self.random_count:
            raise ConfigError("views: expected names or a number of random views, got both")
        if self.random_count < 0 or self.limit < 0:
            raise ConfigError(
                f"views: expected numbers >= 0, got {self.random_count} random, {self.limit} at "
                f"most"
            )


def ros_name(text: str) -> str:
    """A valid ROS name: letters, digits and single underscores, a letter first."""
    name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_")
    return name if name[:1].isalpha() else f"cam_{name}" if name else "camera"


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers within names by their value."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p.lower()) for p in parts if p]


def check_names(found: Sequence[FoundCamera], where: str) -> None:
    """Names must differ.

    Raises:
        SourceError: two folders, files or devices would be one camera.
    """
    names = [camera.name for camera in found]
    for name in names:
        if names.count(name) > 1:
            same = [c.keys[-1] if c.keys else c.name for c in found if c.name == name]
            raise SourceError(
                f"{where}: {' and '.join(same)} would all be camera '{name}'; rename them"
            )


def match_rig(
    found: Sequence[FoundCamera], rig: Rig | None, where: str
) -> list[tuple[FoundCamera, RigCamera]]:
    """Cameras of the rig first, in its order, then the others; frames are filled in.

    Raises:
        SourceError: names that fall together, or a camera of the rig that is not there.
    """
    check_names(found, where)
    if rig is None:
        return [(camera, _framed(RigCamera(camera.name))) for camera in found]
    names = [camera.name for camera in found]
    by_key = {key: camera for camera in found for key in (camera.name, *camera.keys)}
    matched: dict[str, tuple[FoundCamera, RigCamera]] = {}
    for entry in rig.cameras:
        image = entry.image.rstrip("/").rsplit("/", 1)[-1]
        key = image if image in by_key else entry.name
        if key not in by_key:
            raise SourceError(
                f"{where}: nothing for camera '{entry.name}' of the rig"
                f"{nearest(image or entry.name, by_key)}; it has {', '.join(names)}"
            )
        camera = by_key[key]
        if camera.name in matched:
            other = matched[camera.name][1].name
            raise SourceError(
                f"{where}: cameras '{other}' and '{entry.name}' of the rig are both "
                f"{camera.keys[-1]}"
            )
        # A key like "0000" is a fine match, but no name for a topic.
        matched[camera.name] = (camera, replace(entry, name=ros_name(entry.name)))
    rest = [camera for camera in found if camera.name not in matched]
    if rest:
        _LOG.warning(
            "%s: the rig does not know %s; they have no calibration",
            where,
            ", ".join(camera.name for camera in rest),
        )
    pairs = [*matched.values(), *((camera, RigCamera(camera.name)) for camera in rest)]
    final = [entry.name for _, entry in pairs]
    for name in final:
        if final.count(name) > 1:
            raise SourceError(f"{where}: two cameras would be named '{name}'")
    return [(camera, _framed(entry)) for camera, entry in pairs]


def select(
    pairs: Sequence[tuple[FoundCamera, RigCamera]], views: Views, where: str
) -> list[tuple[FoundCamera, RigCamera]]:
    """The cameras that `views` asks for.

    Raises:
        SourceError: an unknown or repeated name, or more random views than cameras.
    """
    if views.names:
        return _named(pairs, views.names, where)
    chosen = list(pairs)
    if views.random_count:
        if views.random_count > len(pairs):
            raise SourceError(
                f"{where}: expected at least the {views.random_count} cameras of random_views, "
                f"got {len(pairs)}"
            )
        indices = random.Random(views.seed).sample(range(len(pairs)), views.random_count)
        chosen = [pairs[i] for i in sorted(indices)]
    if views.limit and len(chosen) > views.limit:
        left_out = ", ".join(entry.name for _, entry in chosen[views.limit :])
        _LOG.info("%s: only the first %d cameras; without %s", where, views.limit, left_out)
        chosen = chosen[: views.limit]
    return chosen


def _named(
    pairs: Sequence[tuple[FoundCamera, RigCamera]], names: Iterable[str], where: str
) -> list[tuple[FoundCamera, RigCamera]]:
    by_key = {}
    for pair in pairs:
        for key in (*pair[0].keys, pair[0].name, pair[1].name):
            by_key[key] = pair
    chosen: list[tuple[FoundCamera, RigCamera]] = []
    for name in names:
        if name not in by_key:
            known = ", ".join(entry.name for _, entry in pairs)
            raise SourceError(
                f"{where}: no camera for view '{name}'{nearest(name, by_key)}; it has {known}"
            )
        if any(by_key[name] is pair for pair in chosen):
            raise SourceError(f"{where}: view '{name}' is asked for twice")
        chosen.append(by_key[name])
    return chosen


def _framed(entry: RigCamera) -> RigCamera:
    return replace(entry, frame_id=entry.frame_id or f"{entry.name}_optical_frame")
