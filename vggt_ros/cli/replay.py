"""`vggt-ros replay`: the pipeline on a bag, without ROS, the same bytes at every run."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros import results
from vggt_ros.cli.arguments import count_or_zero
from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError, VggtRosError

if TYPE_CHECKING:  # imported where they are used: `vggt-ros --help` must not wait for them
    from vggt_ros.geometry import Rigid3
    from vggt_ros.pipeline.mapping import MappingPipeline
    from vggt_ros.preview import PreviewImage

_EXAMPLES = """\
examples:
  vggt-ros replay photos_bag --out result
  vggt-ros replay robot_bag --out result --set rig_file=RIG.yaml --set map.voxel_m=0.01
  vggt-ros replay robot_bag --out result --config mapper.yaml --max-sets 20
  vggt-ros replay robot_bag --out result --set motion=tf --set frame.odom=odom

The folder gets report.json, timings.json, map.ply, cameras.tum, preview.png, config.yaml and,
with structure from motion, features.npz; of a rig that moves (motion: tf or estimate) also
trajectory.tum. `vggt-ros export` makes other formats of them.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "replay",
        help="map a bag without ROS",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder or file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of parameters")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one parameter, for instance map.voxel_m=0.01; may be repeated",
    )
    parser.add_argument(
        "--max-sets", type=count_or_zero, default=0, metavar="N", help="stop after N sets"
    )
    parser.add_argument(
        "--load-map",
        type=Path,
        metavar="FILE",
        help="go on with a saved map instead of a bootstrap; the cameras stand where they stood",
    )
    parser.add_argument(
        "--save-map",
        type=Path,
        metavar="FILE",
        help="save the map with all that it takes to go on",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vggt_ros.parameters import load_config

    config = load_config(args.config, args.set)
    out = results.prepare_folder(args.out)
    outcome = replay_bag(args.bag, config, args.max_sets, progress=True, load_map=args.load_map)
    outcome.write(out)
    if args.save_map is not None:
        from vggt_ros.pipeline.archive import save_archive

        size = save_archive(args.save_map, outcome.pipeline, outcome.stamp_ns)
        print(f"map saved to {args.save_map}, {size / 1e6:.1f} MB")
    print(outcome.summary())
    print(f"\nresults in {out}")
    if outcome.fault is not None:
        raise type(outcome.fault)(
            f"{args.bag}: mapping ended early, at set {outcome.pipeline.sets_received}; the "
            f"results hold what was mapped until then: {outcome.fault}"
        ) from outcome.fault
    if not outcome.points:
        raise AlignmentError(
            f"{args.bag}: the map is empty: no depth was accepted; the cameras need texture and "
            "overlap, and the right places (`vggt-ros check` tells); report.json counts what was "
            "left out"
        )
    return 0


@dataclass
class Outcome:
    """What a replay left behind."""

    pipeline: MappingPipeline
    config: Config
    dropped: dict[str, int]
    images: list[PreviewImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    points: int = 0
    """In the map that was written."""
    fault: VggtRosError | None = None
    """What ended the mapping before the bag did."""
    stamp_ns: int = 0
    """Of the newest set."""

    def report(self) -> dict[str, Any]:
        """The content of `report.json`, what ingest dropped included."""
        report: dict[str, Any] = self.pipeline.report()
        dropped = report["sets"]["dropped"]
        for reason, count in sorted(self.dropped.items()):
            dropped[reason] = dropped.get(reason, 0) + count
        report["notes"] = self.notes
        if self.config.motion != "static":
            # stamp_ns x y z [map units] qx qy qz qw: the rig in the map
            report["motion"]["trajectory"] = [
                [stamp, *pose.translation.tolist(), *pose.quaternion_xyzw.tolist()]
                for stamp, pose in self._path()
            ]
        if self.fault is not None:
            report["failure"] = str(self.fault)
        return report

    def _path(self) -> list[tuple[int, Rigid3]]:
        """Stamps and `map_from_rig` of a rig that moves."""
        return sorted(self.pipeline.path(), key=lambda place: place[0])

    def write(self, out: Path) -> None:
        """Write all files of the results folder."""
        from vggt_ros.export.files import write_json, write_text
        from vggt_ros.export.ply import write_ply
        from vggt_ros.export.scene_files import write_features
        from vggt_ros.export.trajectory import StampedPose, static_poses, write_tum
        from vggt_ros.parameters import dump_config
        from vggt_ros.preview import write_preview

        cloud = self.pipeline.cloud()
        self.points = len(cloud)
        scene = self.pipeline.scene
        assert scene is not None  # replay_bag raises otherwise
        poses = scene.map_from_camera
        comments = [f"scale {scene.scale}"]
        write_ply(out / results.MAP, cloud, comments=comments)
        write_tum(
            out / results.TRAJECTORY,
            static_poses(poses),
            is_metric=cloud.is_metric,
            comments=comments,
        )
        if self.config.motion != "static":
            write_tum(
                out / results.PATH,
                [StampedPose(stamp, pose) for stamp, pose in self._path()],
                is_metric=cloud.is_metric,
                comments=comments,
            )
        if scene.features:
            write_features(out / results.FEATURES, scene)
        write_preview(out / results.PREVIEW, self.images, cloud, poses)
        write_text(out / results.CONFIG, dump_config(self.config))
        write_json(out / results.TIMINGS, self.pipeline.timings.summary())
        write_json(out / results.REPORT, self.report())
        self.pipeline.save_calibration()

    def summary(self) -> str:
        """A table for the terminal."""
        assert self.pipeline.scene is not None  # replay_bag raises otherwise
        report = self.report()
        sets, size = report["sets"], report["map"]
        registered = [n for n, c in report["cameras"].items() if c["registered"]]
        rows = [
            ("cameras", f"{len(registered)} of {len(report['cameras'])} registered", "", ""),
            ("scale", str(self.pipeline.scene.scale), "", ""),
            ("sets", f"{sets['used']} of {sets['received']} used", "", ""),
            ("map", f"{size['points']:,} points", "", ""),
        ]
        rows += [("note", note, "", "") for note in self.notes]
        return results.table(rows, ("what", "result", "", ""))


def replay_bag(
    path: Path,
    config: Config,
    max_sets: int = 0,
    progress: bool = False,
    load_map: Path | None = None,
) -> Outcome:
    """Run the pipeline over the image topics of a bag.

    Args:
        path: of the bag.
        config: parameters.
        max_sets: stop after so many; 0: all.
        progress: show a bar.
        load_map: archive to go on with.

    Raises:
        SourceError: no bag, no image topics; a damaged archive.
        ConfigError: a camera or topic that the bag does not have; an archive of other cameras or
            another kind of map.
        CalibrationError: impossible intrinsics or transforms.
        AlignmentError: no frame set could be bootstrapped.
        EngineError: a network failed before there was anything to write; later faults are in
            `Outcome.fault`.
    """
    from tqdm import tqdm

    from vggt_ros.cli.replay_images import BagImages, BagPlaces
    from vggt_ros.pipeline.ingest import Ingest
    from vggt_ros.pipeline.mapping import MappingPipeline
    from vggt_ros.preview import PreviewImage
    from vggt_ros.sources.bag import BagReader
    from vggt_ros.sources.bag_cameras import choose_cameras

    with ExitStack() as stack:
        bag = stack.enter_context(BagReader(path))
        chosen = choose_cameras(bag, config)
        rig = chosen.rig
        config = replace(config, cameras=list(rig.names))
        pipeline = MappingPipeline(config, rig)
        pipeline.load_calibration()
        stack.callback(pipeline.close)
        pipeline.open_engines()  # before the bag is read: it is what may fail
        if load_map is not None:
            from vggt_ros.pipeline.archive import check_cameras, load_archive

            saved = load_archive(load_map, config)
            check_cameras(saved, pipeline)
            pipeline.take_over(saved)
        ingest = stack.enter_context(
            Ingest(
                rig.names,
                {n: rig.models.get(n) for n in rig.names},
                config.ingest,
                tuple(chosen.depth_topics.values()),
            )
        )
        for topic, name in chosen.topics.items():
            if not bag.topics[topic].count:
                ingest.leave_out(name)
        moved = config.motion == "tf"
        places = BagPlaces(bag, config, rig.rig_frame) if moved else None
        images = BagImages(chosen.topics, ingest, places, chosen.depth_topics)
        outcome = Outcome(pipeline, config, {}, notes=list(chosen.notes))
        failure: AlignmentError | None = None
        bar = tqdm(
            bag.messages(images.topics),
            total=sum(bag.topics[t].count for t in images.topics),
            desc="replay",
            unit="message" if moved else "image",
            disable=None if progress else True,
        )
        for frame_set in images.frame_sets(bar):
            try:
                result = pipeline.step(frame_set)
            except AlignmentError as error:
                failure = error
                bar.set_postfix_str("bootstrap failed")
                continue
            except VggtRosError as error:
                if pipeline.scene is None:
                    raise
                outcome.fault = error
                break
            outcome.stamp_ns = frame_set.stamp_ns
            if result.depth_maps:
                depth = {d.camera: d.depth for d in result.depth_maps if d.alignment.accepted}
                outcome.images = [
                    PreviewImage(f.camera, f.rgb, depth.get(f.camera)) for f in frame_set.frames
                ]
            bar.set_postfix_str(f"{pipeline.map.size:,} surfels")
            if max_sets and pipeline.sets_received >= max_sets:
                break
        bar.close()
        try:
            pipeline.finish()
        except AlignmentError as error:
            failure = error
        undecodable = sum(bag.undecodable[topic] for topic in chosen.topics)
        outcome.dropped = dict(images.dropped + Counter({"undecodable message": undecodable}))
        outcome.notes += images.notes()
        if bag.truncated:
            outcome.notes.append(bag.truncated)
    if pipeline.scene is None:
        if places is not None and places.fault and not pipeline.sets_received:
            raise AlignmentError(
                f"{path}: no set has a place: {places.fault}; name the frames as the bag has them "
                f"(--set frame.odom=..., frame.base, rig_frame of the rig file), or let the path "
                f"be found with --set motion=estimate"
            )
        raise failure or AlignmentError(_why_nothing(path, outcome))
    return outcome


def _why_nothing(path: Path, outcome: Outcome) -> str:
    """Why there was never a bootstrap to fail."""
    pipeline = outcome.pipeline
    if pipeline.sets_received:
        return (
            f"{path}: the bag has {pipeline.sets_received} frame sets, but the bootstrap needs "
            f"{pipeline.bootstrapper.sets_needed} ({pipeline.config.bootstrap}.sets)"
        )
    dropped = ", ".join(f"{reason} {n}" for reason, n in sorted(outcome.dropped.items()))
    notes = "".join(f"; {note}" for note in outcome.notes)
    return (
        f"{path}: no complete frame set of {', '.join(outcome.config.cameras)}; images dropped: "
        f"{dropped or 'none'}{notes}; leave cameras out with --set cameras=a,b or let sets be "
        "incomplete with --set ingest.min_cameras=2; `vggt-ros check` says more"
    )
