"""Work on videos in a real Ray cluster of two nodes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ray_tasks
from support.project import REPOSITORY, SUPPORT
from support.ray_cluster import RayCluster, ray_cluster
from support.video_files import list_videos, numbered_video, small_params

from taehv.config.profiles import load_profile
from taehv.data.prepare import prepare
from taehv.data.ray_workers import RayWorkers
from taehv.runtime.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory(prefix="ray") as folder:
        monkeypatch.setenv("PYTHONPATH", str(SUPPORT.parent))  # the nodes import support.ray_tasks
        with ray_cluster(Path(folder), monkeypatch) as cluster:
            yield cluster


@pytest.fixture
def workers(cluster: RayCluster) -> Iterator[RayWorkers]:
    with RayWorkers(cluster.address) as workers:
        yield workers


def test_results_come_in_order_whichever_node_finishes_first(workers: RayWorkers, tmp_path: Path) -> None:
    function = functools.partial(ray_tasks.doubled, folder=tmp_path)
    results = workers.map(function, iter(range(30)), label="doubling", unit="number", total=30, name=str)
    assert list(results) == [(2 * number, str(Path.cwd())) for number in range(30)]


def test_tasks_are_handed_out_a_few_at_a_time(workers: RayWorkers, tmp_path: Path) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    function = functools.partial(ray_tasks.doubled, folder=tmp_path)
    results = workers.map(function, tasks(), label="doubling", unit="number", total=None, name=str)
    next(results)
    assert len(taken) <= 8 + 1


def test_an_error_of_the_function_is_raised_as_it_is(workers: RayWorkers) -> None:
    with pytest.raises(UserError, match="^0 is no video$"):
        list(workers.map(ray_tasks.fails, [0], label="failing", unit="video", total=1, name=str))


def test_a_killed_process_costs_its_task_only(workers: RayWorkers, tmp_path: Path) -> None:
    function = functools.partial(ray_tasks.dies_once, folder=tmp_path)
    results = workers.map(function, range(20), label="dying", unit="number", total=20, name=str)
    assert list(results) == list(range(20))


def test_what_always_kills_its_process_is_named(workers: RayWorkers) -> None:
    with pytest.raises(UserError, match="the process at video 3 was lost 4 times"):
        list(
            workers.map(
                ray_tasks.always_dies, range(10), label="dying", unit="n", total=10, name=lambda n: f"video {n}"
            )
        )


def test_an_address_without_a_cluster_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no Ray cluster at '127.0.0.1:9'.*ray start"):
        RayWorkers("127.0.0.1:9")


def test_a_cluster_makes_the_same_dataset_byte_for_byte(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    list_videos(
        [numbered_video(Path(f"videos/{name}.mkv"), 40, first=first).name for name, first in (("a", 0), ("b", 40))]
    )
    made = []
    for changes in ({"workers": 1}, {"workers": "ray", "ray_address": cluster.address}):
        prepare(small_params(), load_profile("local", REPOSITORY / "profiles").model_copy(update=changes))
        made.append({file.name: file.read_bytes() for file in Path("data/clips").iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) > 4


def test_a_killed_node_costs_its_tasks_only(cluster: RayCluster, workers: RayWorkers) -> None:
    """The last one: the cluster has one node less from here on."""
    results = workers.map(ray_tasks.slowly, range(40), label="waiting", unit="number", total=40, name=str)
    first = [next(results) for _ in range(10)]
    cluster.kill_node(1)
    assert first + list(results) == list(range(40))
