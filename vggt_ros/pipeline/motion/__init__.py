"""From bootstraps of a moving rig to one trajectory: windows, joins, loops, graph."""
