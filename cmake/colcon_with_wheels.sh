#!/usr/bin/env bash
# Build and test this package with colcon against the ROS 2 wheels of an environment, as a robot
# does against its distribution.
#
# usage: colcon_with_wheels.sh VENV [BUILD_FOLDER]
# VENV has everything but vggt_ros (`make colcon` makes one); results go to BUILD_FOLDER/{build,
# install,log}, by default build/colcon.
set -eu -o pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
venv=$(cd "$1" && pwd)
mkdir -p "${2:-$source/build/colcon}"
out=$(cd "${2:-$source/build/colcon}" && pwd)

# colcon finds the wheels as it would find a sourced distribution.
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH COLCON_PREFIX_PATH

packages=("$source")
if [ ! -e "$venv/share/ament_index/resource_index/packages/tf2_msgs" ]; then
  packages=("$source/third_party/tf2_msgs" "$source")
fi
cd "$out"
colcon --log-base log list --base-paths "${packages[@]}"
colcon --log-base log build --base-paths "${packages[@]}" --event-handlers console_cohesion- \
  --cmake-args -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython3_EXECUTABLE="$venv/bin/python"
colcon --log-base log test --base-paths "${packages[@]}" --packages-select vggt_ros \
  --event-handlers console_cohesion+ --return-code-on-test-failure
colcon --log-base log test-result --verbose
