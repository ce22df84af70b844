"""Folders, videos or webcams as camera topics, and the mapper on them.

    ros2 launch vggt_ros camera_source.launch.py kind:=webcams \
        webcams:="['front=0', 'left=1']" rig_file:=/path/to/RIG.yaml
    ros2 launch vggt_ros camera_source.launch.py kind:=videos source:=/path/to/videos \
        frame_step:=2 rig_file:=/path/to/RIG.yaml

The mapper needs the names of the cameras: those of the rig file, or `cameras` in `params_file`.
"""

from typing import List  # noqa: UP035 (what launch_ros compares with)

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vggt_ros.nodes.launching import (
    WAIT_FOR_SUBSCRIBERS_S,
    mapper_actions,
    mapper_arguments,
    typed,
)


def generate_launch_description():
    """The camera source and, unless `mapper:=false`, the mapper."""
    arguments = [
        DeclareLaunchArgument(
            "kind", default_value="images", description="images, videos, webcams"
        ),
        DeclareLaunchArgument("source", default_value="", description="folder, or one video"),
        DeclareLaunchArgument(
            "webcams", default_value="['']", description="such as ['front=0', 'left=1']"
        ),
        DeclareLaunchArgument("frame_step", default_value="1", description="every N-th image"),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of folders, videos"),
        DeclareLaunchArgument("loop", default_value="false", description="start again at the end"),
        DeclareLaunchArgument("raw", default_value="true", description="publish raw images"),
        DeclareLaunchArgument(
            "compressed", default_value="false", description="publish compressed images"
        ),
        DeclareLaunchArgument("mapper", default_value="true", description="start the mapper too"),
        *mapper_arguments(),
    ]
    source = Node(
        package="vggt_ros",
        executable="camera_source",
        name="camera_source",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[
            {
                "kind": typed("kind", str),
                "source": typed("source", str),
                "webcams": typed("webcams", List[str]),  # noqa: UP006
                "frame_step": typed("frame_step", int),
                "rate": typed("rate", float),
                "loop": typed("loop", bool),
                "raw": typed("raw", bool),
                "compressed": typed("compressed", bool),
                "rig_file": typed("rig_file", str),
                "frame_prefix": typed("frame_prefix", str),
                "wait_for_subscribers_s": WAIT_FOR_SUBSCRIBERS_S,
            }
        ],
    )
    mapper = mapper_actions(condition=IfCondition(LaunchConfiguration("mapper")))
    return LaunchDescription([*arguments, *mapper, source])
