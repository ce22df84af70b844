# The mapper on ROS 2 Jazzy, x86-64 (aarch64 without a GPU works by the same lines).
#
#   docker build -f docker/jazzy.Dockerfile -t vggt_ros:jazzy .
#   docker run --rm -it --net=host --ipc=host -v "$PWD/config:/config:ro" -v "$PWD/maps:/maps" \
#       vggt_ros:jazzy ros2 launch vggt_ros static_rig.launch.py rig_file:=/config/rig.yaml
#
# --ipc=host: Fast DDS hands images over in shared memory, which other containers and the host must
# see; without it they fall silent or back to UDP. --net=host: discovery.
# A GPU: add --gpus all, and to the pip line below what docs/engines.md asks for.
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-eu", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive \
    VIRTUAL_ENV=/opt/vggt_ros/venv \
    PIP_NO_CACHE_DIR=1

# What only pip has, in an environment that sees apt's and ROS's packages.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv python3-pip \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages "$VIRTUAL_ENV" && touch "$VIRTUAL_ENV/COLCON_IGNORE"
ENV PATH="$VIRTUAL_ENV/bin:$PATH"
WORKDIR /opt/vggt_ros/ws
COPY requirements-robot.txt src/vggt_ros/
RUN pip install -r src/vggt_ros/requirements-robot.txt

# The keys of package.xml, before the rest of the tree so that a change of code does not repeat it.
COPY package.xml src/vggt_ros/
RUN apt-get update \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src -y --ignore-src \
        --dependency-types buildtool --dependency-types build --dependency-types exec \
    && rm -rf /var/lib/apt/lists/*

COPY . src/vggt_ros
RUN source "/opt/ros/$ROS_DISTRO/setup.bash" \
    && colcon build --packages-select vggt_ros --cmake-args -DBUILD_TESTING=OFF \
    && rm -rf build log \
    && source install/setup.bash \
    && vggt-ros doctor

# For every Fast DDS process in this container, also `ros2 run` and camera drivers.
ENV FASTRTPS_DEFAULT_PROFILES_FILE=/opt/vggt_ros/ws/install/vggt_ros/share/vggt_ros/config/fastdds_large_data.xml
COPY docker/entrypoint.sh /opt/vggt_ros/entrypoint.sh
ENTRYPOINT ["/opt/vggt_ros/entrypoint.sh"]
CMD ["ros2", "launch", "vggt_ros", "static_rig.launch.py", "--show-args"]
