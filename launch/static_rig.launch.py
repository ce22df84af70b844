r"""The mapper for cameras that are fixed to each other: configured, activated, with RViz if asked.

    ros2 launch vggt_ros static_rig.launch.py rig_file:=/path/to/RIG.yaml
    ros2 launch vggt_ros static_rig.launch.py params_file:=/path/to/mapper.yaml rviz:=true

    ros2 launch vggt_ros static_rig.launch.py params_file:=/path/to/mapper.yaml \
        bootstrap:=vggt vggt_engine:=/path/to/vggt.engine \
        depth:=depth_anything depth_anything_engine:=/path/to/depth_anything.engine

    ros2 launch vggt_ros static_rig.launch.py namespace:=robot1 frame_prefix:=robot1/ rig_file:=...

Arguments win over the parameter file; those that are not given leave it as it is. The launch ends
where the mapper cannot be configured. All arguments: `--show-args`.
"""

from launch import LaunchDescription

from vggt_ros.nodes.launching import mapper_actions, mapper_arguments


def generate_launch_description():
    """The mapper with its lifecycle, RViz where asked for."""
    return LaunchDescription([*mapper_arguments(), *mapper_actions()])
