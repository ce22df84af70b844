"""Camera frusta for RViz."""

from __future__ import annotations

from geometry_msgs.msg import Point
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.nodes.conversions import pose_message, time_message
from vggt_ros.types import AlignedScene

FRUSTUM_OF_RIG = 0.25
"""Length of a frustum, as a fraction of the largest distance between two cameras."""

FRUSTUM_ALONE = 0.1
"""Length where there is no such distance [map units]."""


def camera_markers(scene: AlignedScene, stamp_ns: int, frame_id: str) -> MarkerArray:
    """A frustum and a name per camera; green on its place on the rig, red off it, blue without.

    The first marker deletes those of an earlier scene.
    """
    centres = [pose.translation for pose in scene.map_from_camera.values()]
    size = max((float(abs(a - b).max()) for a in centres for b in centres), default=0.0)
    length = FRUSTUM_OF_RIG * size or FRUSTUM_ALONE
    stamp = time_message(stamp_ns)
    markers = [Marker(action=Marker.DELETEALL)]
    markers[0].header.frame_id = frame_id
    markers[0].header.stamp = stamp
    for number, (camera, pose) in enumerate(scene.map_from_camera.items()):
        residual = scene.residuals.get(camera)
        colour = (0.2, 0.4, 1.0) if residual is None else (0.1, 0.9, 0.1)
        if residual is not None and not residual.inlier:
            colour = (1.0, 0.1, 0.1)
        for kind, name in ((Marker.LINE_LIST, "frusta"), (Marker.TEXT_VIEW_FACING, "names")):
            marker = Marker(ns=name, id=number, type=kind, action=Marker.ADD)
            marker.header.frame_id = frame_id
            marker.header.stamp = stamp
            marker.pose = pose_message(pose)
            marker.color.r, marker.color.g, marker.color.b = colour
            marker.color.a = 1.0
            markers.append(marker)
        markers[-2].scale.x = 0.02 * length
        markers[-1].scale.z = 0.4 * length
        markers[-1].text = camera
        model = scene.cameras[camera]
        corners = [
            Point(
                x=(u - model.cx) / model.fx * length,
                y=(v - model.cy) / model.fy * length,
                z=length,
            )
            for u, v in (
                (-0.5, -0.5),
                (model.width - 0.5, -0.5),
                (model.width - 0.5, model.height - 0.5),
                (-0.5, model.height - 0.5),
            )
        ]
        apex = Point()
        lines = []
        for i, corner in enumerate(corners):
            lines += [apex, corner, corner, corners[(i + 1) % 4]]
        markers[-2].points = lines
    return MarkerArray(markers=markers)
