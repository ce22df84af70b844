r"""The mapper for cameras that are fixed to each other: configured, activated, with RViz if asked.

    ros2 launch vggt_ros static_rig.launch.py rig_file:=/path/to/RIG.yaml
    ros2 launch vggt_ros static_rig.launch.py params_file:=/path/to/mapper.yaml rviz:=true

    ros2 launch vggt_ros static_rig.launch.py params_file:=/path/to/mapper.yaml \
        bootstrap:=vggt vggt_engine:=/path/to/vggt.engine \
        depth:=depth_anything depth_anything_engine:=/path/to/depth_anything.engine

Arguments win over the parameter file; those that are not given leave it as it is. The launch ends
where the mapper cannot be configured.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

# Shared memory in pieces of 1 MB, TCP to other hosts: images and clouds of several megabytes
# arrive. Camera drivers need the same setting, or they and the mapper talk by UDP.
LARGE_DATA = "LARGE_DATA?max_msg_size=1MB&sockets_size=64MB&non_blocking=true"


def launch_mapper(context):
    """The mapper, configured and activated; arguments that are empty leave the file's values."""
    optional = {
        "rig_file": LaunchConfiguration("rig_file"),
        "bootstrap": LaunchConfiguration("bootstrap"),
        "vggt.engine": LaunchConfiguration("vggt_engine"),
        "depth": LaunchConfiguration("depth"),
        "depth_anything.engine": LaunchConfiguration("depth_anything_engine"),
    }
    given = {
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
    }
    for name, argument in optional.items():
        value = argument.perform(context)
        if value:
            given[name] = ParameterValue(value, value_type=str)
    mapper = LifecycleNode(
        package="vggt_ros",
        executable="mapper",
        name="mapper",
        namespace="",
        output="screen",
        parameters=[LaunchConfiguration("params_file"), given],
        on_exit=Shutdown(reason="the mapper has ended"),
    )
    configure = EmitEvent(
        event=ChangeState(
            lifecycle_node_matcher=matches_action(mapper),
            transition_id=Transition.TRANSITION_CONFIGURE,
        )
    )
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=mapper,
            start_state="configuring",
            goal_state="inactive",
            handle_once=True,  # a later configure by hand is not followed by activate
            entities=[
                EmitEvent(
                    event=ChangeState(
                        lifecycle_node_matcher=matches_action(mapper),
                        transition_id=Transition.TRANSITION_ACTIVATE,
                    )
                )
            ],
        )
    )
    failed = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=mapper,
            start_state="configuring",
            goal_state="unconfigured",
            entities=[
                LogInfo(msg="the mapper could not be configured, see its error above"),
                Shutdown(reason="configure failed"),
            ],
        )
    )
    return [activate, failed, mapper, configure]


def generate_launch_description():
    """The mapper with its lifecycle, RViz where asked for."""
    share = FindPackageShare("vggt_ros")
    arguments = [
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
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="take the time from /clock"
        ),
        DeclareLaunchArgument("rviz", default_value="false", description="show the map in RViz"),
        DeclareLaunchArgument(
            "dds_large_data",
            default_value="true",
            description="set FASTDDS_BUILTIN_TRANSPORTS for large messages (Fast DDS only)",
        ),
    ]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", PathJoinSubstitution([share, "config", "vggt.rviz"])],
        parameters=[
            {"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}
        ],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    large_data = SetEnvironmentVariable(
        "FASTDDS_BUILTIN_TRANSPORTS",
        LARGE_DATA,
        condition=IfCondition(LaunchConfiguration("dds_large_data")),
    )
    mapper = OpaqueFunction(function=launch_mapper)
    return LaunchDescription([*arguments, large_data, mapper, rviz])
