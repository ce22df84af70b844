"""The stages, from stamped images to a map; nothing here knows of ROS."""
