"""Folders, videos or webcams as camera topics, and the mapper on them.

    ros2 launch vggt_ros camera_source.launch.py kind:=webcams \
        webcams:="['front=0', 'left=1']" rig_file:=/path/to/RIG.yaml
    ros2 launch vggt_ros camera_source.launch.py kind:=videos source:=/path/to/videos \
        frame_step:=2 rig_file:=/path/to/RIG.yaml

The mapper needs the names of the cameras: those of the rig file, or `cameras` in `params_file`.
"""

from typing import List  # noqa: UP035 (what launch_ros compares with)

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

# The first start compiles kernels before the mapper subscribes.
WAIT_FOR_SUBSCRIBERS_S = 180.0


def generate_launch_description():
    """The camera source and, unless `mapper:=false`, the mapper."""
    share = FindPackageShare("vggt_ros")

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
        DeclareLaunchArgument(
            "rig_file", default_value="", description="RIG.yaml with the cameras; empty: none"
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([share, "config", "default.yaml"]),
            description="parameters of the mapper",
        ),
        DeclareLaunchArgument("mapper", default_value="true", description="start the mapper too"),
        DeclareLaunchArgument("rviz", default_value="false", description="show the map in RViz"),
    ]
    source = Node(
        package="vggt_ros",
        executable="camera_source",
        name="camera_source",
        output="screen",
        parameters=[
            {
                "kind": ParameterValue(LaunchConfiguration("kind"), value_type=str),
                "source": ParameterValue(LaunchConfiguration("source"), value_type=str),
                "webcams": ParameterValue(LaunchConfiguration("webcams"), value_type=List[str]),  # noqa: UP006
                "frame_step": ParameterValue(LaunchConfiguration("frame_step"), value_type=int),
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                "raw": ParameterValue(LaunchConfiguration("raw"), value_type=bool),
                "compressed": ParameterValue(LaunchConfiguration("compressed"), value_type=bool),
                "rig_file": ParameterValue(LaunchConfiguration("rig_file"), value_type=str),
                "wait_for_subscribers_s": WAIT_FOR_SUBSCRIBERS_S,
            }
        ],
    )
    mapper = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "static_rig.launch.py"])
        ),
        launch_arguments={
            "params_file": LaunchConfiguration("params_file"),
            "rig_file": LaunchConfiguration("rig_file"),
            "rviz": LaunchConfiguration("rviz"),
        }.items(),
        condition=IfCondition(LaunchConfiguration("mapper")),
    )
    return LaunchDescription([*arguments, mapper, source])
