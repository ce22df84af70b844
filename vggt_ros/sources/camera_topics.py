"""Which topics belong to one camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vggt_ros.errors import ConfigError
from vggt_ros.rig import Rig
from vggt_ros.sources.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE

_NOT_COLOUR = ("depth", "disparity", "confidence")
"""An image topic with a part that starts so is no camera for us."""


@dataclass(frozen=True)
class CameraTopics:
    """The topics that belong to one camera; empty where there is none."""

    name: str
    image: str = ""
    compressed: str = ""
    camera_info: str = ""

    @property
    def image_topic(self) -> str:
        """The raw images if there are any, else the compressed ones."""
        return self.image or self.compressed

    @property
    def is_rectified(self) -> bool:
        """The images are those of `image_rect*`, to which P belongs, not K and D."""
        topic = self.image or self.compressed.removesuffix("/compressed")
        return topic.rsplit("/", 1)[-1].startswith("image_rect")


def group_camera_topics(types: Mapping[str, str]) -> dict[str, CameraTopics]:
    """Cameras by name from topics and their types; see `BagReader.camera_topics`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for topic, msgtype in sorted(types.items()):
        if msgtype not in (IMAGE, COMPRESSED_IMAGE):
            continue
        parts = topic.strip("/").split("/")
        if any(part.startswith(_NOT_COLOUR) for part in parts):
            continue
        if msgtype == COMPRESSED_IMAGE and parts[-1] == "compressed":
            parts.pop()
        elif parts[-1].startswith("compressed"):
            continue
        found.setdefault("/".join(parts[:-1]), []).append(("/".join(parts), topic))
    cameras = [_camera(space, topics, types) for space, topics in found.items()]
    return {camera.name: camera for camera in cameras}


def names_in_rig(topics: Mapping[str, CameraTopics], rig: Rig | None) -> dict[str, str]:
    """Camera of the bag to its name in the rig file, which may name its image topic instead.

    Raises:
        ConfigError: two cameras of the bag would have one name.
    """
    names = {name: name for name in topics}
    for entry in rig.cameras if rig else ():
        for camera in topics.values():
            if entry.image and entry.image.strip("/") in (
                camera.image.strip("/"),
                camera.compressed.strip("/"),
                camera.compressed.strip("/").removesuffix("/compressed"),
            ):
                names[camera.name] = entry.name
    for name, used in names.items():
        if used != name and names.get(used, "") == used:
            raise ConfigError(
                f"rig file: camera '{used}' has the image topic of the bag's camera '{name}', but "
                f"the bag has a camera '{used}' as well; name it in the rig file too"
            )
    return names


def _camera(space: str, topics: list[tuple[str, str]], types: Mapping[str, str]) -> CameraTopics:
    def preference(base: str) -> tuple[int, str]:
        last = base.rsplit("/", 1)[-1]
        return (0 if last == "image_raw" else 2 if "rect" in last else 1), base

    base = min((base for base, _ in topics), key=preference)
    names = {types[topic]: topic for found, topic in topics if found == base}
    lead = "/" if next(iter(names.values())).startswith("/") else ""
    info = f"{lead}{space}/camera_info" if space else f"{lead}camera_info"
    return CameraTopics(
        space.replace("/", "_") or "camera",
        names.get(IMAGE, ""),
        names.get(COMPRESSED_IMAGE, ""),
        info if types.get(info) == CAMERA_INFO else "",
    )
