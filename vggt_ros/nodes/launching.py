"""What the launch files share: the mapper's arguments, its lifecycle, RViz.

Here and not in `launch/`, for a launch file cannot import its neighbour. `ros2 launch` runs this
with the system's Python, outside of any virtual environment: it imports launch and nothing else.
"""

from __future__ import annotations

import os
from typing import Any

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

from vggt_ros.nodes.transport import PROFILE, PROFILE_HUMBLE, PROFILE_VARIABLES

WAIT_FOR_SUBSCRIBERS_S = 180.0
"""Players wait so long for the mapper: its first start compiles kernels before it subscribes."""

MAPPER_ARGUMENTS = {
    "params_file": ("", "parameters of the mapper; empty: config/default.yaml of this package"),
    "rig_file": ("", "RIG.yaml with the cameras"),
    "bootstrap": ("", "how cameras are found: sfm, rig, vggt"),
    "vggt_engine": ("", "for bootstrap:=vggt: engine with passport"),
    "depth": ("", "what gives depth: plane_sweep, depth_anything"),
    "depth_anything_engine": ("", "for depth:=depth_anything: engine with passport"),
    "motion": ("", "how the rig moves: static, tf, estimate"),
    "namespace": ("", "of the mapper and all its topics, such as robot1"),
    "frame_prefix": ("", "before the names of frames, such as robot1/"),
    "tf_in_namespace": ("false", "use tf and tf_static of the namespace, not /tf and /tf_static"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "configure and activate; false: leave it to a lifecycle manager"),
    "log_level": ("info", "debug, info, warn, error"),
    "rviz": ("false", "show the map in RViz"),
    "dds_large_data": (
        "true",
        "give Fast DDS the profile for large messages, unless one is set; camera drivers need it "
        "too",
    ),
    "odom_frame": ("", "odometry frame in TF, such as odom; empty: no odometry"),
    "base_frame": ("", "robot frame that carries the cameras, where it is not base_link"),
}
"""Default and description. Those that are empty leave the parameter file as it is."""

OPTIONAL_PARAMETERS = {
    "rig_file": "rig_file",
    "bootstrap": "bootstrap",
    "vggt.engine": "vggt_engine",
    "depth": "depth",
    "depth_anything.engine": "depth_anything_engine",
    "motion": "motion",
    "frame.prefix": "frame_prefix",
    "frame.odom": "odom_frame",
    "frame.base": "base_frame",
}
"""Parameter of the mapper, and the launch argument that sets it where it is not empty."""


RVIZ_TOPICS = ("map", "points", "cameras", "path", "occupancy")
"""Topics of the mapper in config/vggt.rviz, which names them without a namespace."""


def mapper_arguments(**defaults: str) -> list[DeclareLaunchArgument]:
    """Declare the arguments of `mapper_actions`.

    Args:
        defaults: of arguments that this launch file wants otherwise.

    Raises:
        KeyError: a default for an argument that there is not.
    """
    for name in defaults:
        MAPPER_ARGUMENTS[name]
    return [
        DeclareLaunchArgument(name, default_value=defaults.get(name, default), description=text)
        for name, (default, text) in MAPPER_ARGUMENTS.items()
    ]


def mapper_actions(condition: Any = None) -> list[Any]:
    """The mapper, configured and activated, and RViz where asked for.

    The launch ends where the mapper ends or cannot be configured.
    """
    return [
        OpaqueFunction(
            function=_transport, condition=IfCondition(LaunchConfiguration("dds_large_data"))
        ),
        OpaqueFunction(function=_mapper, condition=condition),
        OpaqueFunction(
            function=_rviz,
            condition=IfCondition(LaunchConfiguration("rviz")),
        ),
    ]


def typed(name: str, value_type: Any) -> ParameterValue:
    """A launch argument as a parameter of that type, whatever YAML would take it for."""
    return ParameterValue(LaunchConfiguration(name), value_type=value_type)


def _value(context: Any, name: str) -> str:
    return str(LaunchConfiguration(name).perform(context))


def _is_true(context: Any, name: str) -> bool:
    return _value(context, name).strip().lower() in ("true", "1")


def tf_remappings(context: Any) -> list[tuple[str, str]]:
    """Of `/tf` and `/tf_static`, where each robot has its own."""
    if not _is_true(context, "tf_in_namespace"):
        return []
    return [("/tf", "tf"), ("/tf_static", "tf_static")]


def _transport(context: Any) -> list[Any]:
    """The profile as a file; transport.py says why not as a variable."""
    given = [name for name in PROFILE_VARIABLES if os.environ.get(name)]
    if given:
        return [LogInfo(msg=f"{given[0]} is set: the transport is left as it says")]
    name = PROFILE_HUMBLE if os.environ.get("ROS_DISTRO") == "humble" else PROFILE
    file = PathJoinSubstitution([FindPackageShare("vggt_ros"), "config", name])
    return [SetEnvironmentVariable(variable, file) for variable in PROFILE_VARIABLES]


def _mapper(context: Any) -> list[Any]:
    """Arguments that are empty leave the values of the parameter file."""
    given: dict[str, Any] = {"use_sim_time": typed("use_sim_time", bool)}
    for parameter, argument in OPTIONAL_PARAMETERS.items():
        if _value(context, argument):
            given[parameter] = typed(argument, str)
    share = FindPackageShare("vggt_ros")
    file: Any = LaunchConfiguration("params_file")
    if not _value(context, "params_file"):
        file = PathJoinSubstitution([share, "config", "default.yaml"])
    mapper = LifecycleNode(
        package="vggt_ros",
        executable="mapper",
        name="mapper",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[file, given],
        remappings=tf_remappings(context),
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        on_exit=Shutdown(reason="the mapper has ended"),
    )
    if not _is_true(context, "autostart"):
        return [mapper]
    configure = _transition(mapper, Transition.TRANSITION_CONFIGURE)
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=mapper,
            start_state="configuring",
            goal_state="inactive",
            handle_once=True,  # a later configure by hand is not followed by activate
            entities=[_transition(mapper, Transition.TRANSITION_ACTIVATE)],
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


def _transition(node: Any, transition: int) -> EmitEvent:
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
    )


def _rviz(context: Any) -> list[Any]:
    """RViz on the topics of `namespace`."""
    namespace = _value(context, "namespace").strip("/")
    prefix = _value(context, "frame_prefix")
    config = PathJoinSubstitution([FindPackageShare("vggt_ros"), "config", "vggt.rviz"])
    topics = RVIZ_TOPICS if namespace else ()
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=LaunchConfiguration("namespace"),
            arguments=["-d", config, *(["-f", f"{prefix}map"] if prefix else [])],
            parameters=[{"use_sim_time": typed("use_sim_time", bool)}],
            remappings=[
                *((f"/mapper/{topic}", f"/{namespace}/mapper/{topic}") for topic in topics),
                *tf_remappings(context),
            ],
        )
    ]
