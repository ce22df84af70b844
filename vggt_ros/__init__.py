"""Dense, metric, live 3-D maps from ordinary cameras, as one ROS 2 package."""

__version__ = "0.1.0"
