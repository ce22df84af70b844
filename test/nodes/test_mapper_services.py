"""What runs beside what: quick services do not wait for long ones, nor a message for its fault."""

from types import SimpleNamespace

from vggt_ros.nodes import inputs
from vggt_ros.nodes.mapper_services import MapperServices


def test_quick_services_have_a_group_of_their_own():
    groups = {}
    node = SimpleNamespace(
        get_name=lambda: "mapper",
        create_service=lambda kind, name, callback, callback_group: groups.update(
            {name: callback_group}
        ),
    )
    MapperServices(node, lambda: None, lambda: False)
    quick = {groups[name] for name in ("~/pause", "~/reset", "~/bootstrap")}
    long = {groups[name] for name in ("~/export_map", "~/save_map", "~/load_map")}
    assert len(quick) == len(long) == 1
    assert not quick & long


def test_a_depth_message_that_nobody_thought_of_is_counted(monkeypatch):
    def fail(message, name):
        raise ZeroDivisionError

    monkeypatch.setattr(inputs, "any_image_from_message", fail)
    drops, errors = [], []
    cameras = inputs.CameraInputs.__new__(inputs.CameraInputs)
    cameras._monitors = {"left": SimpleNamespace(fault="")}
    cameras._worker = SimpleNamespace(offer_depth=None, drop=lambda *what: drops.append(what))
    cameras._node = SimpleNamespace(get_logger=lambda: SimpleNamespace(error=errors.append))
    cameras._depth("left", object())
    assert drops == [("internal error",)]
    assert "ZeroDivisionError" in cameras._monitors["left"].fault
    assert "ZeroDivisionError" in errors[0]
