"""What the mapper publishes: map, latest points, depth, cameras and transforms."""

from __future__ import annotations

import logging
import threading
from typing import Any

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.config import Config
from vggt_ros.export.select import select
from vggt_ros.geometry import Rigid3
from vggt_ros.mapping.cloud import thin_to
from vggt_ros.mapping.updates import inside
from vggt_ros.nodes import conversions, qos
from vggt_ros.nodes.calibration import Calibrated
from vggt_ros.nodes.clouds import newest_set, set_cloud
from vggt_ros.nodes.latest_publisher import LatestPublisher
from vggt_ros.nodes.markers import camera_markers
from vggt_ros.nodes.motion import Motion
from vggt_ros.nodes.moving_outputs import RigPlaces, moved_markers, path_message
from vggt_ros.nodes.qos_events import QosReport, advertise
from vggt_ros.nodes.transforms import Frames, StaticBroadcaster
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.pipeline.report import map_frame
from vggt_ros.types import AlignedScene, DepthMap, PointCloud, unscaled_frame

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0

_DEPTH_QUEUE = 50
"""Depth images that wait: a solved window of a moving rig brings those of all its new keyframes
at once."""


class Outputs:
    """Publishers from configure to cleanup, and the thread that serves them."""

    def __init__(
        self,
        node: LifecycleNode,
        config: Config,
        frames: Frames,
        qos_report: QosReport,
        group: Any = None,
    ) -> None:
        self.config = config
        self._qos_report = qos_report
        self._node = node
        self._frames = frames
        self._calibrated: Calibrated | None = None
        self._scene: tuple[AlignedScene, int] | None = None
        self._map: tuple[PointCloud, int] | None = None
        self._no_cameras = False
        """Those that are latched are of a map that is no more."""
        self._cameras_slot = "scene" if config.motion == "static" else "place"
        self._dirty = False
        self._pending = threading.Event()
        self._publishers: list[Any] = []
        self._map_publisher = self._publisher(PointCloud2, "~/map", qos.latched())
        self._points_publisher = self._publisher(PointCloud2, "~/points", qos.reliable(2))
        self._cameras_publisher = self._publisher(MarkerArray, "~/cameras", qos.latched())
        self._depth_publishers = {
            name: (
                self._publisher(Image, f"~/{name}/depth/image", qos.reliable(_DEPTH_QUEUE)),
                self._publisher(
                    CameraInfo, f"~/{name}/depth/camera_info", qos.reliable(_DEPTH_QUEUE)
                ),
            )
            for name in config.cameras
        }
        self._transforms = StaticBroadcaster(node)
        self._places: RigPlaces | None = None
        self._path: tuple[list[tuple[int, Rigid3]], int] | None = None
        self._unscaled_told = False
        if config.motion != "static":
            self._places = RigPlaces(node, config, frames, group)
            self._path_publisher = self._publisher(Path, "~/path", qos.latched())
        self._thread = LatestPublisher(
            {
                "scene": self._publish_scene,
                "place": self._publish_cameras,
                "map": self._publish_map,
                "path": self._publish_path,
                "set": self._publish_set,
            }
        )
        self._thread.start()

    def close(self) -> bool:
        """End the thread and destroy the publishers, so that nothing stays latched."""
        finished = self._thread.stop(STOP_TIMEOUT_S)
        if self._places is not None:
            self._places.close()
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = []
        self._transforms.close()
        return finished

    @property
    def errors(self) -> int:
        """Messages that could not be made or published."""
        return self._thread.errors

    def republish(self) -> None:
        """After activate: what was published while inactive was dropped."""
        if self._scene is not None:
            self._thread.put("scene", self._scene)
        elif self._no_cameras:
            self._thread.put(self._cameras_slot, None)
        if self._map is not None:
            self._thread.put("map", self._map)
        if self._path is not None:
            self._thread.put("path", self._path)

    # --- called by the worker thread ---------------------------------------------------------

    def scene_found(self, scene: AlignedScene, calibrated: Calibrated, stamp_ns: int) -> None:
        """A bootstrap has succeeded."""
        if self._withholds(scene.scale.is_metric):
            return
        self._calibrated = calibrated
        self._scene = (scene, stamp_ns)
        self._no_cameras = False
        self._thread.put("scene", self._scene)

    def set_mapped(self, result: Any, is_metric: bool, motion: Motion | None = None) -> None:
        """A set has reached the map; of a rig that moves, also where that was."""
        if self._withholds(is_metric):
            return
        self._dirty = True
        if self._places is not None and self._scene is not None and motion is not None:
            assert self._calibrated is not None  # scene_found has set it
            scene, calibrated = self._scene[0], self._calibrated
            self._places.moved(motion, calibrated, scene)
            if motion.places:
                self._thread.put("place", (scene, calibrated, *motion.places[-1]))
        if result.depth_maps:
            self._thread.put("set", (result, is_metric))

    def cleared(self) -> None:
        """The map was reset: an empty one takes the place of what is latched."""
        if self._scene is not None:
            self._no_cameras = True
            self._thread.put(self._cameras_slot, None)
        self._scene = None
        self._dirty = True
        if self._places is not None:
            self._places.cleared()

    def _withholds(self, is_metric: bool) -> bool:
        """With `scale.require_metric` nothing leaves a map that is not, wherever it came from."""
        return self.config.scale.require_metric and not is_metric

    # --- called by a timer -------------------------------------------------------------------

    def request_map(self, worker: MappingWorker) -> None:
        """Have the worker copy the map between two steps, if it has changed."""
        if not self._dirty or self._pending.is_set():
            return
        self._pending.set()
        worker.post(lambda: self._copy_map(worker))

    def _copy_map(self, worker: MappingWorker) -> None:
        self._dirty = False
        try:
            settings = self.config.publish
            most = 0 if self.config.crop.enabled else settings.map_max_points
            cloud = worker.pipeline.cloud(settings.map_voxel_m, most)
            self._map = (cloud, worker.health.stamp_ns)
            self._thread.put("map", self._map)
            if self._places is not None:
                path = sorted(worker.pipeline.path(), key=lambda place: place[0])
                self._path = (path, worker.health.stamp_ns)
                self._thread.put("path", self._path)
        finally:
            self._pending.clear()

    # --- in the publishing thread ------------------------------------------------------------

    def _publish_map(self, value: tuple[PointCloud, int]) -> None:
        cloud, stamp_ns = value
        if self.config.crop.enabled:
            cloud = self._cropped(cloud)
            cloud = select(cloud, thin_to(len(cloud), self.config.publish.map_max_points))
        self._map_publisher.publish(conversions.cloud_message(cloud, stamp_ns, cloud.frame))

    def _publish_set(self, value: tuple[Any, bool]) -> None:
        result, is_metric = value
        frame = self._map_frame
        publish = self.config.publish
        if publish.points and self._points_publisher.get_subscription_count():
            skew_ns = int(self.config.ingest.max_skew_ms * 1e6)
            newest, stamp_ns = newest_set(result.depth_maps, skew_ns)
            cloud = self._cropped(set_cloud(newest, frame, is_metric))
            self._points_publisher.publish(conversions.cloud_message(cloud, stamp_ns, frame))
        if publish.depth and self._depth_is_meant(is_metric):
            for depth_map in result.depth_maps:
                self._publish_depth(depth_map)

    def _depth_is_meant(self, is_metric: bool) -> bool:
        """REP-118: whoever reads 32FC1 takes it for metres."""
        if is_metric or self.config.publish.depth_unscaled:
            return True
        if not self._unscaled_told:
            self._unscaled_told = True
            logger.warning(
                "depth images are not published while the scale is unknown, for their numbers "
                "would be no metres: give the scale (scale.source), or set "
                "publish.depth_unscaled for readers that know"
            )
        return False

    def _cropped(self, cloud: PointCloud) -> PointCloud:
        """The points in the box of `crop.*`."""
        crop = self.config.crop
        return select(cloud, inside(cloud.points, crop)) if crop.enabled else cloud

    def _publish_depth(self, depth_map: DepthMap) -> None:
        image, info = self._depth_publishers[depth_map.camera]
        if not depth_map.alignment.accepted:
            return
        frame_id = self._optical_frame(depth_map.camera)
        if image.get_subscription_count():
            image.publish(conversions.depth_message(depth_map.depth, depth_map.stamp_ns, frame_id))
        if info.get_subscription_count():
            info.publish(
                conversions.camera_info_message(depth_map.model, depth_map.stamp_ns, frame_id)
            )

    def _publish_scene(self, value: tuple[AlignedScene, int] | None) -> None:
        if value is None:
            self._publish_no_cameras()
            return
        scene, stamp_ns = value
        if self._places is not None:
            assert self._calibrated is not None  # scene_found has set it
            ours = self._transforms.children
            fixed = self._places.fixed_transforms(self._calibrated, scene, ours)
            if fixed:
                self._transforms.send(fixed)
            return  # the cameras are shown where each set has them
        self._transforms.send(self._scene_transforms(scene, stamp_ns))
        self._cameras_publisher.publish(camera_markers(scene, stamp_ns, self._map_frame))

    def _publish_no_cameras(self) -> None:
        marker = Marker(action=Marker.DELETEALL)
        marker.header.frame_id = self._map_frame
        self._cameras_publisher.publish(MarkerArray(markers=[marker]))

    def _publish_cameras(self, value: tuple[AlignedScene, Calibrated, int, Rigid3] | None) -> None:
        if value is None:
            self._publish_no_cameras()
            return
        scene, calibrated, stamp_ns, map_from_rig = value
        self._cameras_publisher.publish(
            moved_markers(scene, calibrated, map_from_rig, stamp_ns, self._map_frame)
        )

    def _publish_path(self, value: tuple[list[tuple[int, Rigid3]], int]) -> None:
        path, stamp_ns = value
        self._path_publisher.publish(path_message(path, stamp_ns, self._map_frame))

    def _scene_transforms(self, scene: AlignedScene, stamp_ns: int) -> list[TransformStamped]:
        """`map` to the top of each tree that carries cameras: one parent per frame.

        Without any TF that is each camera's optical frame; with a URDF or calibrated rig it is
        their root, for the cameras have a parent already. Where somebody else publishes a
        transform from `map`, nothing is sent.
        """
        map_frame = self._map_frame
        found: dict[str, Rigid3] = {}
        assert self._calibrated is not None  # scene_found has set it
        rig_frame = self._calibrated.rig.rig_frame
        if scene.map_from_rig is not None:
            self._add_top(found, rig_frame, scene.map_from_rig, only_if_known=True)
        for camera, map_from_camera in scene.map_from_camera.items():
            self._add_top(found, self._optical_frame(camera), map_from_camera)
        transforms = []
        for frame, map_from_frame in found.items():
            parent = self._frames.parent(frame)
            if parent is not None and frame not in self._transforms.children:
                logger.warning(
                    "tf: '%s' already has the parent '%s', so no transform from '%s' is "
                    "published; clouds are in a map frame of our own",
                    frame,
                    parent,
                    map_frame,
                )
                continue
            transforms.append(
                conversions.transform_message(map_from_frame, map_frame, frame, stamp_ns)
            )
        return transforms

    @property
    def _map_frame(self) -> str:
        """`frame.map`, with "_unscaled" where lengths are not metres."""
        return map_frame(self.config.frame.map, self._scene[0] if self._scene else None)

    def _add_top(
        self,
        found: dict[str, Rigid3],
        frame: str,
        map_from_frame: Rigid3,
        only_if_known: bool = False,
    ) -> None:
        maps = (self.config.frame.map, unscaled_frame(self.config.frame.map))
        top = self._frames.top(frame, *maps)
        if top in found:
            return
        if only_if_known and not any(
            self._frames.top(self._optical_frame(c), *maps) == top for c in self.config.cameras
        ):
            return  # the rig frame is a name of the rig file that TF knows nothing of
        frame_from_top = self._frames.lookup(frame, top)
        if frame_from_top is not None:
            found[top] = map_from_frame @ frame_from_top

    def _optical_frame(self, camera: str) -> str:
        assert self._calibrated is not None  # scene_found has set it
        for entry in self._calibrated.rig.cameras:
            if entry.name == camera:
                return entry.frame_id
        raise KeyError(camera)

    def _publisher(self, kind: Any, topic: str, profile: Any) -> Any:
        publisher = advertise(
            self._node.create_lifecycle_publisher,
            self._qos_report,
            kind,
            topic,
            profile,
            qos_overriding_options=qos.overridable(),
        )
        self._publishers.append(publisher)
        return publisher
