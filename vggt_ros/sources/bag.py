"""rosbag2 bags without ROS: SQLite and MCAP, whole or cut off."""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from vggt_ros.errors import SourceError, nearest
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.sources.bag_recovery import (
    DamagedFile,
    DamagedMcap,
    DamagedSqlite,
    RawMessage,
    damage_errors,
)
from vggt_ros.sources.bag_writer import BagWriter
from vggt_ros.sources.camera_topics import CameraTopics, group_camera_topics
from vggt_ros.sources.messages import (
    TF_MESSAGE,
    model_from_camera_info,
    transforms_from_message,
    typestore,
)
from vggt_ros.sources.transform_tree import TransformTree

__all__ = ["BagMessage", "BagReader", "BagWriter", "CameraTopics", "RawMessage", "TopicInfo"]

_LOG = logging.getLogger(__name__)

_DYNAMIC_TF_MESSAGES = 500
"""So many messages of /tf are looked at to tell fixed from moving frames."""
_DYNAMIC_TF_TOLERANCE = 1e-5
"""A transform on /tf that changes by more [m or rad] moves."""


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a bag."""

    name: str
    msgtype: str
    count: int


class BagMessage(NamedTuple):
    """One message as `rosbags` deserializes it; `stamp_ns` is when it was recorded."""

    topic: str
    stamp_ns: int
    message: Any


class BagReader:
    """A rosbag2 folder or a single .mcap or .db3 file; use as a context manager.

    A bag that was cut off is played as far as it goes; `truncated` then says what is missing,
    and it is logged when a pass over the messages ends.

    Args:
        path: the folder with metadata.yaml (or without, after a crash) or the file.

    Raises:
        SourceError: nothing there, not a bag, or nothing in it can be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.truncated = ""
        self.undecodable: Counter[str] = Counter()
        """Messages that could not be deserialized, by topic."""
        self._readers: list[Any] = []
        self._types: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._unknown: dict[str, str] = {}

    def __enter__(self) -> BagReader:
        if not self.path.exists():
            raise SourceError(f"bag {self.path}: does not exist")
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            if not isinstance(reader, DamagedFile):
                reader.close()
        self._readers = []

    # ------------------------------------------------------------------ content

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """All topics with type and number of messages."""
        return {
            topic: TopicInfo(topic, self._types[topic], self._counts[topic])
            for topic in sorted(self._types)
        }

    def raw_messages(self, topics: Iterable[str] | None = None) -> Iterator[RawMessage]:
        """Serialized messages (CDR) in the order of recording.

        Args:
            topics: only these; all of them if None.

        Raises:
            SourceError: a topic that the bag does not have.
        """
        wanted = self._wanted(topics)
        return self._read(wanted)

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """Messages in the order of recording.

        Messages that cannot be deserialized are skipped and counted in `undecodable`; so are
        those of types without a definition, unless their topic was asked for.

        Raises:
            SourceError: a topic that the bag does not have, or that has an unknown type.
        """
        wanted = self._wanted(topics)
        unknown = [topic for topic in wanted if self._types[topic] in self._unknown]
        if unknown and topics is not None:
            msgtype = self._types[unknown[0]]
            raise SourceError(
                f"bag {self.path}: topic '{unknown[0]}' has the unknown type {msgtype}: "
                f"{self._unknown[msgtype]}"
            )
        for topic in unknown:
            self.undecodable[topic] += self._counts[topic]
        return self._decode(wanted.difference(unknown))

    def camera_topics(self) -> dict[str, CameraTopics]:
        """Cameras by name, in the order of their topics' names.

        The name is the namespace of the image topic: `/front/image_raw/compressed` is `front`,
        `/arm/left/image_raw` is `arm_left`. Depth and disparity images are left out; where a
        camera has several image topics, `image_raw` comes first and rectified ones last.
        """
        return group_camera_topics(self._types)

    def first(self, topic: str) -> Any | None:
        """The first message of a topic, None if it never came."""
        for _, _, message in self.messages([topic]):
            return message
        return None

    def transform_topics(self, static: bool) -> list[str]:
        """The topics of `/tf_static` or `/tf`, those in namespaces too."""
        return self._named("tf_static" if static else "tf")

    def static_transforms(self) -> dict[str, tuple[str, Rigid3]]:
        """Child frame to (parent, `parent_from_child`): /tf_static, and what never moves on /tf.

        Raises:
            CalibrationError: NaN or an impossible quaternion.
        """
        found: dict[str, tuple[str, Rigid3]] = {}
        for topic in self._named("tf_static"):
            for _, _, message in self.messages([topic]):
                for parent, child, pose in transforms_from_message(message):
                    found[child] = (parent, pose)
        moving: set[str] = set()
        seen: dict[str, tuple[str, Rigid3]] = {}
        for topic in self._named("tf"):
            for number, (_, _, message) in enumerate(self.messages([topic])):
                if number >= _DYNAMIC_TF_MESSAGES:
                    break
                for parent, child, pose in transforms_from_message(message):
                    before = seen.setdefault(child, (parent, pose))
                    change = before[1].inverse() @ pose
                    if before[0] != parent or (
                        max(change.angle_rad, float(abs(change.translation).max()))
                        > _DYNAMIC_TF_TOLERANCE
                    ):
                        moving.add(child)
        for child, entry in seen.items():
            if child not in moving:
                found.setdefault(child, entry)
        return found

    def rig(self, cameras: Collection[str] | None = None, rig_frame: str = "") -> Rig:
        """The cameras of the bag: CameraInfo, frames, and poses where the transforms give them.

        Args:
            cameras: only these, in this order; all of them if None.
            rig_frame: frame to which the poses refer; empty: the nearest common ancestor of
                the camera frames that is not an optical frame itself.

        Raises:
            SourceError: no image topics, or an unknown camera.
            CalibrationError: impossible CameraInfo or transforms; two cameras with one
                frame_id that has a pose.
        """
        topics = self.camera_topics()
        if not topics:
            raise SourceError(
                f"bag {self.path}: no image topics (sensor_msgs Image or CompressedImage); it "
                f"has {', '.join(self._types) or 'no topics'}"
            )
        for name in cameras or ():
            if name not in topics:
                raise SourceError(
                    f"bag {self.path}: no camera '{name}'{nearest(name, topics)}; it has "
                    f"{', '.join(topics)}"
                )
        chosen = [topics[name] for name in (cameras or topics)]
        models, frames = {}, {}
        for camera in chosen:
            models[camera.name], frames[camera.name] = self.calibration(camera)
        tree = TransformTree(self.static_transforms())
        poses, root = tree.camera_poses(frames, rig_frame)
        return Rig(
            tuple(
                RigCamera(
                    camera.name,
                    camera.image_topic,
                    camera.camera_info,
                    frames[camera.name],
                    models[camera.name],
                    poses.get(camera.name),
                )
                for camera in chosen
            ),
            root or rig_frame or "rig",
        )

    def calibration(self, camera: CameraTopics) -> tuple[CameraModel | None, str]:
        """Intrinsics (None where unknown) and optical frame of one camera.

        Raises:
            CalibrationError: impossible CameraInfo.
        """
        info = self.first(camera.camera_info) if camera.camera_info else None
        image = self.first(camera.image_topic)
        frames = [str(m.header.frame_id) for m in (image, info) if m is not None]
        frame = next((name for name in frames if name), "")
        if info is None:
            return None, frame
        return model_from_camera_info(info, camera.name, rectified=camera.is_rectified), frame

    # ------------------------------------------------------------------ files

    def _open(self) -> None:
        from rosbags.rosbag2 import Reader

        try:
            reader = Reader(self.path)
            reader.open()
        except FileNotFoundError:
            self._open_files("metadata.yaml is missing")
        except damage_errors() as error:
            if self.path.is_dir():
                self._open_files(str(error))
            else:
                self._recover(self.path, str(error))
        else:
            self._add(reader)
        folder = self.path if self.path.is_dir() else self.path.parent
        for log in folder.glob(f"{self.path.name if folder != self.path else '*'}-wal"):
            if log.stat().st_size:
                self.truncated = (
                    f"the recorder did not finish: {log.name} holds messages that are not read; "
                    f"merge it with: sqlite3 {log.name.removesuffix('-wal')} 'PRAGMA "
                    f"wal_checkpoint'"
                )
        if not self._types:
            raise SourceError(f"bag {self.path}: nothing can be read: {self.truncated or 'empty'}")

    def _open_files(self, problem: str) -> None:
        from rosbags.rosbag2 import Reader

        files = sorted(
            (f for f in self.path.iterdir() if f.suffix in (".mcap", ".db3")),
            key=lambda f: (len(f.name), f.name),  # bag_2 before bag_10
        )
        if not files:
            raise SourceError(f"bag {self.path}: {problem} and there is no .mcap or .db3 file")
        self.truncated = problem
        for file in files:
            try:
                reader = Reader(file)
                reader.open()
            except damage_errors() as error:
                self._recover(file, str(error))
            else:
                self._add(reader)

    def _recover(self, file: Path, problem: str) -> None:
        damaged: DamagedFile
        if file.stat().st_size == 0:
            raise SourceError(f"bag {file}: the file is empty")
        if file.suffix == ".mcap":
            damaged = DamagedMcap(file)
        elif file.suffix == ".db3":
            damaged = DamagedSqlite(file)
        else:
            raise SourceError(
                f"bag {file}: expected a rosbag2 folder, a .mcap or a .db3 file: {problem}"
            )
        total = sum(damaged.counts.values())
        self.truncated = f"{file.name} is cut off ({problem}); {total} messages can be read"
        self._readers.append(damaged)
        self._types.update(damaged.types)
        self._counts.update(damaged.counts)
        for msgtype in damaged.types.values():
            self._learn(msgtype, damaged.definitions.get(msgtype, ""))

    def _add(self, reader: Any) -> None:
        from rosbags.interfaces import MessageDefinitionFormat

        self._readers.append(reader)
        for connection in reader.connections:
            if not (connection.topic and connection.msgtype):  # damaged, but not noticed
                continue
            self._types[connection.topic] = connection.msgtype
            self._counts[connection.topic] += connection.msgcount
            is_msg = connection.msgdef.format == MessageDefinitionFormat.MSG
            self._learn(connection.msgtype, connection.msgdef.data if is_msg else "")

    def _learn(self, msgtype: str, definition: str) -> None:
        """Register a type that the Jazzy store lacks from the definition in the bag."""
        store = typestore()
        if msgtype in store.types or msgtype in self._unknown:
            return
        if not definition:
            self._unknown[msgtype] = "the bag holds no definition of it"
            return
        from rosbags.typesys import get_types_from_msg
        from rosbags.typesys.base import TypesysError

        try:
            types = get_types_from_msg(definition, msgtype)
            store.register({k: v for k, v in types.items() if k not in store.types})
        except TypesysError as error:
            self._unknown[msgtype] = f"its definition cannot be parsed: {error}"

    def _wanted(self, topics: Iterable[str] | None) -> set[str]:
        if topics is None:
            return set(self._types)
        wanted = set(topics)
        for topic in sorted(wanted):
            if topic not in self._types:
                raise SourceError(
                    f"bag {self.path}: no topic '{topic}'{nearest(topic, self._types)}; it has "
                    f"{', '.join(sorted(self._types))}"
                )
        return wanted

    def _named(self, name: str) -> list[str]:
        return [
            topic
            for topic, msgtype in self._types.items()
            if msgtype == TF_MESSAGE and topic.rsplit("/", 1)[-1] == name
        ]

    def _read(self, wanted: set[str]) -> Iterator[RawMessage]:
        for reader in self._readers:
            if isinstance(reader, DamagedFile):
                yield from reader.messages(wanted)
                continue
            connections = [c for c in reader.connections if c.topic in wanted]
            if not connections:
                continue
            expected, count = sum(c.msgcount for c in connections), 0
            try:
                for connection, stamp, data in reader.messages(connections):
                    count += 1
                    yield RawMessage(connection.topic, connection.msgtype, stamp, data)
            except damage_errors() as error:
                self.truncated = f"{Path(reader.path).name} is damaged: {error}"
            else:
                if count < expected:
                    self.truncated = f"{expected - count} of {expected} messages are not there"
        if self.truncated:
            _LOG.warning("bag %s: played what is there; %s", self.path, self.truncated)

    def _decode(self, wanted: set[str]) -> Iterator[BagMessage]:
        from rosbags.serde import SerdeError

        # What the generated readers raise on bytes that are too short or not of the type.
        errors = (SerdeError, AssertionError, IndexError, ValueError, TypeError, struct.error)
        deserialize = typestore().deserialize_cdr
        for raw in self._read(wanted):
            try:
                message = deserialize(raw.data, raw.msgtype)
            except errors as error:
                self.undecodable[raw.topic] += 1
                _LOG.debug("bag %s: %s: %s", self.path, raw.topic, error)
                continue
            yield BagMessage(raw.topic, raw.stamp_ns, message)
        for topic in wanted.intersection(self.undecodable):
            _LOG.warning(
                "bag %s: %d messages of %s could not be decoded",
                self.path,
                self.undecodable[topic],
                topic,
            )
