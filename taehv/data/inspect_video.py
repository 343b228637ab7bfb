"""The first look at every video of the manifest: is it the file that was listed, and is it a usable video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taehv.config.params import Conversions, VideoLimits
from taehv.data.decode import VideoInfo, probe
from taehv.data.identity import content_digest
from taehv.data.manifest import ManifestEntry
from taehv.data.video_error import Reason, VideoError
from taehv.data.workers import advance
from taehv.runtime.failpoints import Failpoint, failpoint


@dataclass(frozen=True)
class Video:
    """A video that can be read."""

    entry: ManifestEntry
    file: Path
    info: VideoInfo


@dataclass(frozen=True)
class Quarantined:
    """A video that is left out, and why."""

    path: str
    reason: Reason
    detail: str


def inspect_video(
    task: tuple[ManifestEntry, Path], *, limits: VideoLimits, conversions: Conversions
) -> Video | Quarantined:
    """Compare one file with its manifest entry and probe it; runs in a worker process, one unit of work per video."""
    failpoint(Failpoint.VIDEO)
    entry, file = task
    try:
        if not file.is_file():
            raise VideoError("missing", f"{file} does not exist")
        size = file.stat().st_size
        if size != entry.bytes:
            raise VideoError("changed", f"{size} bytes, the manifest says {entry.bytes}")
        if content_digest(file, entry.identity) != entry.sha256:
            sampled = "sampled " if entry.identity == "sampled" else ""
            raise VideoError("changed", f"its {sampled}sha256 is not the manifest's")
        return Video(entry, file, probe(file, limits, conversions))
    except VideoError as error:
        return Quarantined(entry.path, error.reason, error.detail)
    except OSError as error:
        return Quarantined(entry.path, "unreadable", error.strerror or str(error))
    finally:
        advance()
