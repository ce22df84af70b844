"""A bag through the mapper: `static_rig.launch.py` and the bag player with /clock.

    ros2 launch vggt_ros replay.launch.py bag:=/path/to/bag params_file:=/path/to/mapper.yaml

At the end of the bag the mapper goes on, so that the map can be looked at and exported;
`exit_at_end:=true` ends the launch.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

# The first start compiles kernels before the mapper subscribes.
WAIT_FOR_SUBSCRIBERS_S = 180.0


def generate_launch_description():
    """The mapper and the bag player."""
    share = FindPackageShare("vggt_ros")
    arguments = [
        DeclareLaunchArgument("bag", description="rosbag2 folder or file"),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of the replay"),
        DeclareLaunchArgument("loop", default_value="false", description="start again at the end"),
        DeclareLaunchArgument(
            "exit_at_end", default_value="false", description="end the launch with the bag"
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([share, "config", "default.yaml"]),
            description="parameters of the mapper",
        ),
        DeclareLaunchArgument(
            "rig_file", default_value="", description="RIG.yaml with the cameras"
        ),
        DeclareLaunchArgument(
            "bootstrap", default_value="", description="how cameras are found: sfm, rig, vggt"
        ),
        DeclareLaunchArgument(
            "vggt_engine",
            default_value="",
            description="for bootstrap:=vggt: engine with passport",
        ),
        DeclareLaunchArgument(
            "depth", default_value="", description="what gives depth: plane_sweep, depth_anything"
        ),
        DeclareLaunchArgument(
            "depth_anything_engine",
            default_value="",
            description="for depth:=depth_anything: engine with passport",
        ),
        DeclareLaunchArgument("rviz", default_value="false", description="show the map in RViz"),
    ]
    mapper = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([share, "launch", "static_rig.launch.py"])
        ),
        launch_arguments={
            "params_file": LaunchConfiguration("params_file"),
            "rig_file": LaunchConfiguration("rig_file"),
            "bootstrap": LaunchConfiguration("bootstrap"),
            "vggt_engine": LaunchConfiguration("vggt_engine"),
            "depth": LaunchConfiguration("depth"),
            "depth_anything_engine": LaunchConfiguration("depth_anything_engine"),
            "rviz": LaunchConfiguration("rviz"),
            "use_sim_time": "true",
        }.items(),
    )
    player = Node(
        package="vggt_ros",
        executable="bag_player",
        name="bag_player",
        output="screen",
        parameters=[
            {
                "bag": ParameterValue(LaunchConfiguration("bag"), value_type=str),
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                "clock": True,
                "wait_for_subscribers_s": WAIT_FOR_SUBSCRIBERS_S,
            }
        ],
    )
    end = RegisterEventHandler(
        OnProcessExit(
            target_action=player,
            on_exit=[EmitEvent(event=Shutdown(reason="the bag has ended"))],
        ),
        condition=IfCondition(LaunchConfiguration("exit_at_end")),
    )
    return LaunchDescription([*arguments, mapper, end, player])
