# The mapper on a Jetson (aarch64, JetPack 6) with TensorRT, on an image that has ROS 2 Humble or
# Jazzy beside NVIDIA's libraries.
#
#   docker build -f docker/jetson.Dockerfile -t vggt_ros:jetson .
#   docker run --rm -it --runtime nvidia --net=host --ipc=host -v "$PWD/config:/config:ro" \
#       -v "$PWD/engines:/engines" vggt_ros:jetson \
#       ros2 launch vggt_ros static_rig.launch.py rig_file:=/config/rig.yaml
#
# The base must fit the JetPack of the board: `dpkg-query --show nvidia-l4t-core` says R36.x for
# JetPack 6. Its ROS is built from source under /opt/ros/$ROS_DISTRO, so that rosdep has to be told
# what is there already. Engines are built on the board that runs them (docs/engines.md).
# The profile set below needs Fast DDS 2.14 (Jazzy); for Humble take config/fastdds_humble.xml.
ARG BASE=dustynv/ros:jazzy-desktop-r36.4.0
FROM ${BASE}

SHELL ["/bin/bash", "-eu", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive \
    VIRTUAL_ENV=/opt/vggt_ros/venv \
    PIP_NO_CACHE_DIR=1

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv python3-pip \
    && rm -rf /var/lib/apt/lists/*
# --system-site-packages: TensorRT's Python package comes with JetPack and is not on PyPI for it.
RUN python3 -m venv --system-site-packages "$VIRTUAL_ENV" && touch "$VIRTUAL_ENV/COLCON_IGNORE"
ENV PATH="$VIRTUAL_ENV/bin:$PATH"
WORKDIR /opt/vggt_ros/ws
COPY requirements-robot.txt src/vggt_ros/
# pycuda instead of cuda-python: it is built against the CUDA of the image.
RUN pip install -r src/vggt_ros/requirements-robot.txt "pycuda>=2022.1"

COPY package.xml src/vggt_ros/
RUN source "/opt/ros/$ROS_DISTRO/setup.bash" \
    && apt-get update \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src -y --ignore-src \
        --dependency-types buildtool --dependency-types build --dependency-types exec \
        --skip-keys "cv_bridge python3-opencv python3-numpy" \
    && rm -rf /var/lib/apt/lists/*

COPY . src/vggt_ros
RUN source "/opt/ros/$ROS_DISTRO/setup.bash" \
    && colcon build --packages-select vggt_ros --cmake-args -DBUILD_TESTING=OFF \
    && rm -rf build log \
    && source install/setup.bash \
    && vggt-ros doctor

ENV FASTRTPS_DEFAULT_PROFILES_FILE=/opt/vggt_ros/ws/install/vggt_ros/share/vggt_ros/config/fastdds_large_data.xml
COPY docker/entrypoint.sh /opt/vggt_ros/entrypoint.sh
ENTRYPOINT ["/opt/vggt_ros/entrypoint.sh"]
CMD ["ros2", "launch", "vggt_ros", "static_rig.launch.py", "--show-args"]
