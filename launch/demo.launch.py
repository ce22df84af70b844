"""The bag of `vggt-ros demo` in RViz: four cameras in a simulated room.

vggt-ros demo --out demo_out
ros2 launch vggt_ros demo.launch.py out:=demo_out
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    """Replay of the demo's bag."""
    out = LaunchConfiguration("out")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "out", default_value="demo_out", description="folder that `vggt-ros demo` wrote"
            ),
            DeclareLaunchArgument("rviz", default_value="true", description="show the map"),
            DeclareLaunchArgument(
                "rate",
                default_value="0.25",
                description="speed; a CPU maps about two sets a second",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(
                    PathJoinSubstitution(
                        [FindPackageShare("vggt_ros"), "launch", "replay.launch.py"]
                    )
                ),
                launch_arguments={
                    "bag": PathJoinSubstitution([out, "bag"]),
                    "params_file": PathJoinSubstitution([out, "mapper.yaml"]),
                    "rate": LaunchConfiguration("rate"),
                    "rviz": LaunchConfiguration("rviz"),
                }.items(),
            ),
        ]
    )
