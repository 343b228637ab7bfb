"""A user's own videos, named as `taehv manifest` suggests, where DVC runs a stage in a copy of the repository."""

from __future__ import annotations

import pytest
from support.project import TINY, Project
from support.video_files import numbered_video


@pytest.mark.slow
def test_a_relative_folder_of_videos_is_found_by_a_temporary_experiment(project: Project) -> None:
    """The copy has what git knows, and the videos are not among it; the run's result is the workspace's."""
    project.change_params(TINY)
    videos = project.root / "my videos"
    videos.mkdir()
    for number in range(3):
        numbered_video(videos / f"{number}.mkv", 250, 72, 72, first=number)
    with (project.root / ".gitignore").open("a", encoding="utf-8") as ignored:
        ignored.write("/my videos/\n")
    printed = project.run("taehv.cli", "manifest", "my videos").stdout
    assert "data: {source: videos, path: my videos}" in printed
    project.change_params({"data": {"source": "videos", "path": "my videos"}})
    project.commit("my videos")
    result = project.run("dvc", "exp", "run", "--temp", "prepare_data")
    assert "3 videos, split by time" in result.stdout
    assert not (project.root / "data/clips").exists()
