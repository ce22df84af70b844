r"""The mapper for cameras that move: on a robot with odometry, or one that is carried by hand.

    ros2 launch vggt_ros moving_rig.launch.py odom_frame:=odom urdf:=/path/to/robot.urdf \
        params_file:=/path/to/mapper.yaml

    ros2 launch vggt_ros moving_rig.launch.py rig_file:=/path/to/RIG.yaml
    ros2 launch vggt_ros moving_rig.launch.py motion:=estimate params_file:=/path/to/mapper.yaml

With `odom_frame` the odometry (odom -> base in TF) says how the rig moves, and the mapper
publishes map -> odom. Without, `motion:=tf` expects another localiser to publish the map frame;
the mapper then publishes no transform. `motion:=estimate` needs neither: the path comes from the
images, and the mapper publishes map -> rig. `urdf` starts robot_state_publisher, for robots where
nobody else does. All arguments: `--show-args`.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vggt_ros.nodes.launching import mapper_actions, mapper_arguments, tf_remappings, typed


def robot(context):
    """robot_state_publisher, where a URDF was given."""
    urdf = LaunchConfiguration("urdf").perform(context)
    if not urdf:
        return []
    with open(urdf) as file:
        description = file.read()
    return [
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[
                {
                    "robot_description": description,
                    "frame_prefix": typed("frame_prefix", str),
                    "use_sim_time": typed("use_sim_time", bool),
                }
            ],
            remappings=tf_remappings(context),
        )
    ]


def generate_launch_description():
    """The mapper with its lifecycle, the robot's frames and RViz where asked for."""
    urdf = DeclareLaunchArgument(
        "urdf",
        default_value="",
        description="URDF (xacro resolved) with the cameras' optical frames; empty: TF has them",
    )
    actions = [OpaqueFunction(function=robot), *mapper_actions()]
    return LaunchDescription([urdf, *mapper_arguments(motion="tf"), *actions])
