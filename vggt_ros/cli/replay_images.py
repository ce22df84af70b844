"""From the messages of a bag to frame sets; of a rig that moves, with its place from `/tf`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from vggt_ros.config import Config
from vggt_ros.errors import CalibrationError, SourceError
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.pipeline.waiting_sets import WaitingSets
from vggt_ros.sources.bag import BagMessage, BagReader
from vggt_ros.sources.messages import any_image_from_message, stamped_transforms_from_message
from vggt_ros.sources.transform_buffer import TransformBuffer
from vggt_ros.types import FrameSet

_LOG = logging.getLogger(__name__)


class BagPlaces:
    """Where the transforms of a bag say the rig was (motion tf), by the rules of the mapper.

    Sets wait by the time at which messages were recorded.

    Args:
        bag: its `/tf_static` is read here, its `/tf` comes through `add`.
        config: `frame.*`.
        rig_frame: what moves.
    """

    def __init__(self, bag: BagReader, config: Config, rig_frame: str) -> None:
        self.topics = bag.transform_topics(static=False)
        self.dropped: Counter[str] = Counter()
        self.fault = ""
        """Of the first set that was dropped."""
        self._rig_frame = rig_frame
        self._buffer = TransformBuffer(config.frame.tf_history_s)
        self.waiting = WaitingSets(
            config.frame.prefix + (config.frame.odom or config.frame.map),
            config.frame.tf_wait_ms,
            self._buffer.lookup_at,
            self._drop,
        )
        static = bag.transform_topics(static=True)
        for _, _, message in bag.messages(static) if static else ():
            self.add(message, static=True)

    def add(self, message: Any, static: bool = False) -> None:
        """Take a message; one with an impossible number is left out whole, and counted."""
        try:
            transforms = list(stamped_transforms_from_message(message))
        except CalibrationError as error:
            if not self.dropped["impossible transform"]:
                _LOG.warning("tf: a message is left out: %s", error)
            self.dropped["impossible transform"] += 1
            return
        for parent, child, pose, stamp_ns in transforms:
            self._buffer.insert(parent, child, pose, stamp_ns, static)

    def ready(self, ingest: Ingest, now_ns: int) -> Iterator[FrameSet]:
        """The sets whose places are known."""
        while (
            found := self.waiting.next_placed(ingest.take, now_ns, self._rig_frame)
        ) is not None:
            frame_set = ingest.decode_set(found[0])
            if frame_set is not None:
                yield replace(frame_set, world_from_rig=found[1])

    def clock_set_back(self) -> None:
        """The stamps went back: what moved before is over."""
        self._buffer.forget_moving()
        self.waiting.clear()

    def finish(self) -> None:
        """The bag has ended: drop what still waits."""
        self.waiting.finish(self._rig_frame)

    def _drop(self, reason: str, text: str) -> None:
        self.dropped[reason] += 1
        if not self.fault:
            self.fault = text


class BagImages:
    """The images of a bag on their way into ingest; faulty ones are counted.

    Args:
        topics: image topic to camera.
        ingest: gets the images.
        places: of a rig that `/tf` moves.
        depth_topics: depth topic to camera.
    """

    def __init__(
        self,
        topics: dict[str, str],
        ingest: Ingest,
        places: BagPlaces | None = None,
        depth_topics: dict[str, str] | None = None,
    ) -> None:
        self._topics = {**topics, **(depth_topics or {})}
        self._depth_topics = frozenset(depth_topics or ())
        self._ingest = ingest
        self._places = places
        self._unreadable: Counter[str] = Counter()
        self._first_errors: dict[str, str] = {}
        self._clock_resets = 0

    @property
    def topics(self) -> list[str]:
        """What is to be read from the bag."""
        return [*self._topics, *(self._places.topics if self._places else ())]

    def frame_sets(self, messages: Iterable[BagMessage]) -> Iterator[FrameSet]:
        """All sets of the bag, in order."""
        now_ns = 0
        for topic, now_ns, message in messages:
            camera = self._topics.get(topic)
            if camera is None:
                assert self._places is not None  # or nobody has asked for the topic
                self._places.add(message)
            else:
                self._take(topic, camera, message)
            yield from self._ready(now_ns)
        self._ingest.finish()
        yield from self._ready(now_ns)
        if self._places is not None:
            self._places.finish()

    def _take(self, topic: str, camera: str, message: Any) -> None:
        try:
            image = any_image_from_message(message, camera)
        except SourceError as error:
            self._unreadable[camera] += 1
            self._first_errors.setdefault(camera, str(error))
            return
        if topic in self._depth_topics:
            self._ingest.put_depth(image)
            return
        self._ingest.put(image)
        if self._ingest.clock_resets != self._clock_resets:
            self._clock_resets = self._ingest.clock_resets
            if self._places is not None:
                self._places.clock_set_back()

    def _ready(self, now_ns: int) -> Iterator[FrameSet]:
        if self._places is not None:
            yield from self._places.ready(self._ingest, now_ns)
            return
        while (chosen := self._ingest.take()) is not None:
            frame_set = self._ingest.decode_set(chosen)
            if frame_set is not None:
                yield frame_set

    @property
    def dropped(self) -> Counter[str]:
        """Images that are in no set, and sets without a place, by reason."""
        counts = self._ingest.counts + Counter({"unreadable image": self._unreadable.total()})
        return counts + self._places.dropped if self._places else counts

    def notes(self) -> list[str]:
        """What a person should know of the cameras and of the places."""
        notes = [
            f"{text} ({self._unreadable[camera]} images)"
            for camera, text in self._first_errors.items()
        ]
        for name in self._ingest.silent:
            if name not in self._first_errors:
                notes.append(f"camera '{name}' never sent an image")
        for name in self._ingest.left_out:
            if name not in self._ingest.silent:
                notes.append(f"camera '{name}' was left out at the end: no usable images")
        if self._ingest.clock_resets:
            notes.append(f"stamps went back {self._ingest.clock_resets} times")
        if self._places is not None and self._places.fault:
            notes.append(f"sets were dropped, first: {self._places.fault}")
        return notes
