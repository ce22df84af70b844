"""Parameters that are changed while the mapper runs."""

from types import SimpleNamespace

import pytest
from rclpy.parameter import Parameter

from vggt_ros.config import MapConfig
from vggt_ros.msg import MapStatus
from vggt_ros.nodes.mapper_node import Mapper
from vggt_ros.nodes.node_config import MapperConfig


@pytest.mark.parametrize(("kind", "accepted"), [("surfel", True), ("tsdf", False)])
def test_what_the_kind_of_map_cannot_do_is_refused_at_once(kind, accepted):
    """Accepted, it would make every later set fail."""
    config = MapperConfig(map=MapConfig(kind=kind))
    applied = []
    node = SimpleNamespace(
        _config=config,
        _resolved=config,
        _state=MapStatus.STATE_MAPPING,
        _apply=applied.append,
    )
    change = Parameter("map.min_confidence", value=0.5)
    result = Mapper._on_parameters(node, [change])
    assert result.successful is accepted
    assert bool(applied) is accepted
    assert (node._config.map.min_confidence == 0.5) is accepted
    assert accepted or "map.min_confidence: expected 0 with map.kind: tsdf" in result.reason
