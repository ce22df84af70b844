"""A camera that is dead from the start does not keep the others from mapping."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from vggt_ros.msg import MapStatus


def test_the_others_map_after_a_while(start, observer, stub, make_bag, until, tmp_path):
    status = observer.listen(MapStatus, "/mapper/status")
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    parameters = {
        "cameras": "[left, right]",
        "autostart": "true",
        "calibration_wait_s": 0.5,
        "ingest.silent_after_s": 1.0,
    }
    mapper = start(stub, parameters)
    mapper.wait_for("activate: done")
    bag = make_bag(tmp_path / "bag", sets=40, cameras=("left",))
    player = start("vggt_ros.nodes.bag_player", {"bag": bag, "rate": 2.0})
    until(lambda: status and status[-1].sets_used >= 20, what="sets of one camera")
    assert status[-1].state == MapStatus.STATE_MAPPING
    assert status[-1].cameras[0].registered
    assert not status[-1].cameras[1].registered
    mapper.wait_for("camera 'right': no image for 1.0 s; sets go on without it")
    until(
        lambda: diagnostics[-1].status[2].level == DiagnosticStatus.ERROR,
        what="error of the dead camera",
    )
    assert player.wait(90.0) == 0, player.output
