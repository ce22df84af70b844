"""`vggt-ros replay`: the pipeline on a bag, without ROS, the same bytes at every run."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros import results
from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError, ConfigError, nearest
from vggt_ros.rig import Rig, load_rig, merge_rigs

if TYPE_CHECKING:  # imported where they are used: `vggt-ros --help` must not wait for them
    from vggt_ros.pipeline.ingest import Ingest
    from vggt_ros.pipeline.mapping import MappingPipeline
    from vggt_ros.preview import PreviewImage
    from vggt_ros.sources.bag import BagMessage, BagReader
    from vggt_ros.types import FrameSet

_EXAMPLES = """\
examples:
  vggt-ros replay photos_bag --out result
  vggt-ros replay robot_bag --out result --set rig_file=RIG.yaml --set map.voxel_m=0.01
  vggt-ros replay robot_bag --out result --config mapper.yaml --max-sets 20

The folder gets report.json, timings.json, map.ply, cameras.tum, preview.png and config.yaml.
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
    parser.add_argument("--max-sets", type=int, default=0, metavar="N", help="stop after N sets")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vggt_ros.parameters import load_config

    config = load_config(args.config, args.set)
    out = results.prepare_folder(args.out)
    outcome = replay_bag(args.bag, config, args.max_sets, progress=True)
    outcome.write(out)
    print(outcome.summary())
    print(f"\nresults in {out}")
    return 0


@dataclass
class Outcome:
    """What a replay left behind."""

    pipeline: MappingPipeline
    config: Config
    dropped: dict[str, int]
    images: list[PreviewImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The content of `report.json`, what ingest dropped included."""
        report: dict[str, Any] = self.pipeline.report()
        dropped = report["sets"]["dropped"]
        for reason, count in sorted(self.dropped.items()):
            dropped[reason] = dropped.get(reason, 0) + count
        report["notes"] = self.notes
        return report

    def write(self, out: Path) -> None:
        """Write all files of the results folder."""
        from vggt_ros.export.files import write_json, write_text
        from vggt_ros.export.ply import write_ply
        from vggt_ros.export.trajectory import static_poses, write_tum
        from vggt_ros.parameters import dump_config
        from vggt_ros.preview import write_preview

        cloud = self.pipeline.cloud()
        assert self.pipeline.scene is not None  # replay_bag raises otherwise
        poses = self.pipeline.scene.map_from_camera
        write_ply(out / results.MAP, cloud)
        write_tum(out / results.TRAJECTORY, static_poses(poses), is_metric=cloud.is_metric)
        write_preview(out / results.PREVIEW, self.images, cloud, poses)
        write_text(out / results.CONFIG, dump_config(self.config))
        write_json(out / results.TIMINGS, self.pipeline.timings.summary())
        write_json(out / results.REPORT, self.report())

    def summary(self) -> str:
        """A table for the terminal."""
        report = self.report()
        scale, sets, size = report["scale"], report["sets"], report["map"]
        registered = [n for n, c in report["cameras"].items() if c["registered"]]
        metric = "unknown: the map is not metric"
        if scale["value"] is not None:
            metric = f"{scale['value']:.5g} +- {scale['sigma']:.2g} m per unit, {scale['source']}"
        rows = [
            ("cameras", f"{len(registered)} of {len(report['cameras'])} registered", "", ""),
            ("scale", metric, "", ""),
            ("sets", f"{sets['used']} of {sets['received']} used", "", ""),
            ("map", f"{size['points']:,} points", "", ""),
        ]
        rows += [("note", note, "", "") for note in self.notes]
        return results.table(rows, ("what", "result", "", ""))


def replay_bag(path: Path, config: Config, max_sets: int = 0, progress: bool = False) -> Outcome:
    """Run the pipeline over the image topics of a bag.

    Raises:
        SourceError: no bag, no image topics.
        AlignmentError: no frame set could be bootstrapped.
    """
    from tqdm import tqdm

    from vggt_ros.pipeline.ingest import Ingest
    from vggt_ros.pipeline.mapping import MappingPipeline
    from vggt_ros.preview import PreviewImage
    from vggt_ros.sources.bag import BagReader

    with ExitStack() as stack:
        bag = stack.enter_context(BagReader(path))
        rig, topics = choose_cameras(bag, config)
        config = replace(config, cameras=list(rig.names))
        pipeline = MappingPipeline(config, rig)
        ingest = stack.enter_context(
            Ingest(rig.names, {n: rig.models.get(n) for n in rig.names}, config.ingest)
        )
        outcome = Outcome(pipeline, config, {})
        failure: AlignmentError | None = None
        bar = tqdm(
            bag.messages(list(topics)),
            total=sum(bag.topics[t].count for t in topics),
            desc="replay",
            unit="image",
            disable=None if progress else True,
        )
        for frame_set in _frame_sets(bar, topics, ingest):
            try:
                result = pipeline.step(frame_set)
            except AlignmentError as error:
                failure = error
                bar.set_postfix_str("bootstrap failed")
                continue
            if result.depth_maps:
                depth = {d.camera: d.depth for d in result.depth_maps}
                outcome.images = [
                    PreviewImage(f.camera, f.rgb, depth.get(f.camera)) for f in frame_set.frames
                ]
            bar.set_postfix_str(f"{pipeline.map.size:,} surfels")
            if max_sets and pipeline.sets_received >= max_sets:
                break
        bar.close()
        if bag.truncated:
            outcome.notes.append(bag.truncated)
    outcome.dropped = dict(ingest.counts)
    if pipeline.scene is None:
        raise failure or AlignmentError(
            f"{path}: no complete frame set of {', '.join(rig.names)}; "
            f"dropped: {dict(ingest.counts) or 'nothing'}; `vggt-ros check` says more"
        )
    return outcome


def _frame_sets(
    messages: Iterable[BagMessage], topics: dict[str, str], ingest: Ingest
) -> Iterator[FrameSet]:
    """All sets of the bag, in order; what is left out is counted by `ingest`."""
    from vggt_ros.sources.messages import any_image_from_message

    for topic, _, message in messages:
        ingest.put(any_image_from_message(message, topics[topic]))
        yield from _ready(ingest)
    ingest.finish()
    yield from _ready(ingest)


def _ready(ingest: Ingest) -> Iterator[FrameSet]:
    while (chosen := ingest.take()) is not None:
        frame_set = ingest.decode_set(chosen)
        if frame_set is not None:
            yield frame_set


def choose_cameras(bag: BagReader, config: Config) -> tuple[Rig, dict[str, str]]:
    """The rig, and the image topic of each camera.

    What the bag knows (CameraInfo, TF) is completed and overruled by `rig_file`; `cameras`
    chooses and orders.

    Raises:
        ConfigError: a camera that the bag does not have.
        SourceError: the bag has no image topics.
    """
    rig = bag.rig()
    topic_of = {camera.name: camera.image for camera in rig.cameras}
    if config.rig_file:
        rig = merge_rigs(rig, load_rig(config.rig_file))
    for camera in rig.cameras:
        if camera.image and camera.image in bag.topics:
            topic_of[camera.name] = camera.image
    names = config.cameras or [n for n in rig.names if n in topic_of]
    for name in names:
        configured = config.camera.get(name)
        if configured is not None and configured.image_topic:
            topic_of[name] = configured.image_topic
        if topic_of.get(name) not in bag.topics:
            raise ConfigError(
                f"camera '{name}': the bag has no image topic for it{nearest(name, topic_of)}; "
                f"image topics: {', '.join(sorted(topic_of.values()))}"
            )
    by_name = {camera.name: camera for camera in rig.cameras}
    chosen = Rig(tuple(by_name[n] for n in names if n in by_name), rig.rig_frame)
    return chosen, {topic_of[name]: name for name in names}
