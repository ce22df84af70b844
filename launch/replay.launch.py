"""A bag through the mapper: the bag player with /clock, and all of `static_rig.launch.py`.

    ros2 launch vggt_ros replay.launch.py bag:=/path/to/bag params_file:=/path/to/mapper.yaml

At the end of the bag the mapper goes on, so that the map can be looked at and exported;
`exit_at_end:=true` ends the launch. A bag of a moving rig: `motion:=tf` or `motion:=estimate`.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vggt_ros.nodes.launching import (
    WAIT_FOR_SUBSCRIBERS_S,
    mapper_actions,
    mapper_arguments,
    typed,
)


def generate_launch_description():
    """The mapper and the bag player."""
    arguments = [
        DeclareLaunchArgument("bag", description="rosbag2 folder or file"),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of the replay"),
        DeclareLaunchArgument("loop", default_value="false", description="start again at the end"),
        DeclareLaunchArgument(
            "exit_at_end", default_value="false", description="end the launch with the bag"
        ),
        *mapper_arguments(use_sim_time="true"),
    ]
    player = Node(
        package="vggt_ros",
        executable="bag_player",
        name="bag_player",
        output="screen",
        parameters=[
            {
                "bag": typed("bag", str),
                "rate": typed("rate", float),
                "loop": typed("loop", bool),
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
    return LaunchDescription([*arguments, *mapper_actions(), end, player])
