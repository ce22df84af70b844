#!/usr/bin/env bash
# The distribution, the workspace and what only pip has; then the command.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/vggt_ros/ws/install/setup.bash
exec "$@"
