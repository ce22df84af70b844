"""The transport for images and clouds of several megabytes; no ROS in this file."""

LARGE_DATA = "LARGE_DATA?max_msg_size=1MB&sockets_size=64MB&non_blocking=true"
"""Value of FASTDDS_BUILTIN_TRANSPORTS: shared memory in pieces of 1 MB on one host, TCP to others,
UDP for discovery. config/fastdds_large_data.xml says the same as a file. Measured by bench/dds.py.
"""
