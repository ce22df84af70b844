"""Which cameras of a bag are mapped, from which topics, and what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from vggt_ros.config import CameraConfig, Config
from vggt_ros.errors import CalibrationError, ConfigError, SourceError, nearest
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.rig import Rig, RigCamera, load_rig
from vggt_ros.sources.bag import BagReader
from vggt_ros.sources.camera_topics import CameraTopics, names_in_rig
from vggt_ros.sources.messages import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from vggt_ros.sources.transform_tree import TransformTree


@dataclass(frozen=True, eq=False)
class BagCameras:
    """The cameras that are mapped, in their order."""

    rig: Rig
    topics: dict[str, str]
    """Image topic to camera."""
    notes: tuple[str, ...]
    """Sentences about what was asked for and is not there."""
    depth_topics: dict[str, str] = dataclasses.field(default_factory=dict)
    """Depth topic (`camera.<name>.depth_topic`) to camera."""


def choose_cameras(bag: BagReader, config: Config) -> BagCameras:
    """The cameras of a bag with their topics, intrinsics and places.

    The rig file overrules what the bag knows (CameraInfo, TF): its intrinsics camera by camera,
    its poses all together, for its frame is another one. Its cameras are found by name or by
    image topic. `cameras` chooses and orders; `camera.<name>.*` overrules topics and frames, as
    in the mapper. What is not mapped is not read, so a camera that is out of order can be left
    out.

    Raises:
        ConfigError: a camera or topic that the bag does not have, or that is no image.
        SourceError: the bag has no image topics.
        CalibrationError: impossible CameraInfo or transforms; two cameras with one frame_id
            that has a pose.
    """
    grouped = bag.camera_topics()
    file = load_rig(config.rig_file) if config.rig_file else Rig(())
    aliases = names_in_rig(grouped, file)
    found = {aliases[name]: camera for name, camera in grouped.items()}
    in_file = [name for name in file.names if name in found]
    names = config.cameras or [*in_file, *(name for name in found if name not in in_file)]
    if not found and not any(c.image_topic for c in config.camera.values()):
        kinds = ", ".join(f"{t.name} ({t.msgtype})" for t in bag.topics.values())
        raise SourceError(
            f"bag {bag.path}: no image topics; expected sensor_msgs Image or CompressedImage, "
            f"got {kinds or 'no topics'}"
        )
    chosen = {name: _topics(bag, name, config.camera.get(name), found) for name in names}
    topics: dict[str, str] = {}
    for name, camera in chosen.items():
        other = topics.setdefault(camera.image_topic, name)
        if other != name:
            raise ConfigError(
                f"cameras '{other}' and '{name}' both have the image topic {camera.image_topic}"
            )
    models, frames = {}, {}
    for name, camera in chosen.items():
        models[name], frame = _calibration(bag, camera, file.models.get(name))
        configured = config.camera.get(name, CameraConfig()).frame_id
        in_rig = next((c.frame_id for c in file.cameras if c.name == name), "")
        frames[name] = configured or in_rig or frame
    poses, rig_frame = _poses(bag, frames, file, config)
    cameras = tuple(
        RigCamera(
            name,
            camera.image_topic,
            camera.camera_info,
            frames[name],
            models[name],
            poses.get(name),
        )
        for name, camera in chosen.items()
    )
    lost = [] if config.cameras else [name for name in file.names if name not in found]
    notes = [
        f"camera '{name}' of the rig file is not in the bag{nearest(name, grouped)}"
        for name in lost
    ]
    depth_topics = {}
    for name in chosen:
        asked = config.camera.get(name, CameraConfig()).depth_topic
        if asked:
            topic = _absolute(asked, bag)
            _check_type(bag, topic, f"camera.{name}.depth_topic", (IMAGE, COMPRESSED_IMAGE))
            depth_topics[topic] = name
    return BagCameras(Rig(cameras, rig_frame), topics, tuple(notes), depth_topics)


def _topics(
    bag: BagReader,
    name: str,
    configured: CameraConfig | None,
    found: Mapping[str, CameraTopics],
) -> CameraTopics:
    configured = configured or CameraConfig()
    camera = found.get(name)
    if configured.image_topic:
        camera = _image_topic(bag, name, configured, found)
    if camera is None:
        kinds = [c.image_topic for c in found.values()]
        raise ConfigError(
            f"camera '{name}': the bag has no image topic for it{nearest(name, found)}; "
            f"its cameras: {', '.join(found) or 'none'}; image topics: "
            f"{', '.join(kinds) or 'none'}"
        )
    if configured.info_topic:
        info = _absolute(configured.info_topic, bag)
        _check_type(bag, info, f"camera.{name}.info_topic", (CAMERA_INFO,))
        camera = dataclasses.replace(camera, camera_info=info)
    return dataclasses.replace(camera, name=name)


def _image_topic(
    bag: BagReader, name: str, configured: CameraConfig, found: Mapping[str, CameraTopics]
) -> CameraTopics:
    """The camera of a topic that was asked for, named as for the mapper."""
    topic = _absolute(configured.image_topic, bag)
    if configured.transport == "compressed" and not topic.endswith("/compressed"):
        topic += "/compressed"
    kind = _check_type(bag, topic, f"camera.{name}.image_topic", (IMAGE, COMPRESSED_IMAGE))
    info = next((c.camera_info for c in found.values() if topic in (c.image, c.compressed)), "")
    if kind == IMAGE:
        return CameraTopics(name, image=topic, camera_info=info)
    return CameraTopics(name, compressed=topic, camera_info=info)


def _absolute(topic: str, bag: BagReader) -> str:
    """Relative names are those of a mapper without namespace."""
    return topic if topic in bag.topics or topic.startswith("/") else f"/{topic}"


def _check_type(bag: BagReader, topic: str, parameter: str, expected: tuple[str, ...]) -> str:
    if topic not in bag.topics:
        raise ConfigError(
            f"parameter '{parameter}': the bag has no topic '{topic}'"
            f"{nearest(topic, bag.topics)}; it has {', '.join(bag.topics) or 'none'}"
        )
    kind = bag.topics[topic].msgtype
    if kind not in expected:
        raise ConfigError(
            f"parameter '{parameter}': expected a topic of {' or '.join(expected)}, but '{topic}' "
            f"has {kind}"
        )
    return kind


def _calibration(
    bag: BagReader, camera: CameraTopics, given: CameraModel | None
) -> tuple[CameraModel | None, str]:
    try:
        model, frame = bag.calibration(camera)
    except CalibrationError:
        if given is None:
            raise
        _, frame = bag.calibration(dataclasses.replace(camera, camera_info=""))
        model = None
    return given or model, frame


def _poses(
    bag: BagReader, frames: Mapping[str, str], file: Rig, config: Config
) -> tuple[dict[str, Rigid3], str]:
    prefix = config.frame.prefix
    if file.poses:
        return file.poses, prefix + file.rig_frame
    transforms = bag.static_transforms()
    if config.motion == "tf":
        # A robot that stands still at first is not fixed to the world.
        world = (prefix + config.frame.map, prefix + config.frame.odom)
        transforms = {c: entry for c, entry in transforms.items() if entry[0] not in world}
    known = {name: frame for name, frame in frames.items() if frame}
    poses, root = TransformTree(transforms).camera_poses(known)
    if not poses and config.motion == "tf" and len(known) == 1:  # a rig of one, moved by TF
        ((name, frame),) = known.items()
        return {name: Rigid3.identity()}, frame.lstrip("/")
    return poses, root or prefix + config.frame.rig
