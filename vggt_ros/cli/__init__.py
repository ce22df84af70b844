"""The `vggt-ros` command."""
