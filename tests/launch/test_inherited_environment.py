"""What a program inherits: other launchers' variables, another project's DVC, a locale, a CPU quota."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.project import REPOSITORY, Project

from taehv.runtime import launched, paths
from taehv.runtime.errors import UserError
from taehv.runtime.machine import available_cores, cpu_quotas


class TestLaunchers:
    def test_only_a_process_above_this_one_can_have_launched_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(launched.VARIABLE, f"{os.getppid()}:8")
        assert launched.launched_processes() == 8
        monkeypatch.setenv(launched.VARIABLE, f"{os.getpid()}:8")
        assert launched.launched_processes() is None
        monkeypatch.setenv(launched.VARIABLE, "8")
        with pytest.raises(UserError, match="unset TAEHV_LAUNCHED"):
            launched.launched_processes()

    def test_settings_of_accelerate_and_other_launchers_are_forgotten_and_nothing_else(self) -> None:
        group = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "OMPI_COMM_WORLD_SIZE": "2"}
        settings = {"ACCELERATE_USE_DEEPSPEED": "true", "PET_NNODES": "2", "FSDP_VERSION": "2"}
        users = {"CUDA_VISIBLE_DEVICES": "1", "NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "lo", "SLURM_PROCID": "1"}
        environment = {**group, **settings, **users}
        launched.forget_inherited(environment, keep_group=True)
        assert environment == {**group, **users}
        assert launched.without_inherited({**environment, **launched.mark(2)}) == users


class TestDvcRoot:
    """DVC sets DVC_ROOT only where nobody has set it before."""

    @pytest.fixture(autouse=True)
    def unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TAEHV_ROOT", raising=False)

    @pytest.mark.parametrize(
        ("here", "root", "main"),
        [
            ("ours", "ours", "ours"),
            ("ours/.dvc/tmp/exps/tmp1", "ours", "ours"),
            ("ours/.dvc/tmp/exps/tmp1/part", "ours", "ours"),
            ("ours", "other", "ours"),
            ("other/ours", "other", "other/ours"),
            ("other/.dvc", "other", "other/.dvc"),
            ("ours/.dvc/tmp/exps/tmp1", "other", "ours/.dvc/tmp/exps/tmp1"),
        ],
    )
    def test_it_counts_in_the_repository_that_it_names_and_in_its_experiments(
        self, here: str, root: str, main: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in (here, root):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / here)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / root))
        assert paths.main_repository() == tmp_path / main

    @pytest.mark.slow
    def test_a_stage_writes_nothing_into_the_project_whose_dvc_root_was_exported(
        self, project: Project, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        (project.root / "stages/prepare_data.py").write_text(
            "from taehv.runtime.paths import main_repository\n"
            "(main_repository() / '.work').mkdir()\n(main_repository() / '.work/here').touch()\n"
            "raise SystemExit(3)\n"
        )
        project.commit("stage")
        for command in (["dvc", "repro", "prepare_data"], ["taehv.launch", "--set", "seed=3", "prepare_data"]):
            project.run(*command, check=False, DVC_ROOT=str(other), DVC_EXP_NAME="not-ours")
            assert (project.root / ".work/here").exists(), command
            shutil.rmtree(project.root / ".work")
        assert list(other.iterdir()) == []


NAMES = ["视频 一.mp4", "vidéo.mp4", "нет \U0001f3ac.mp4"]


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Environments of which none is UTF-8; real locales are made where the system has their sources."""
    made = {
        "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "latin-1 output": {"PYTHONIOENCODING": "latin-1"},
        "gbk output": {"PYTHONIOENCODING": "gbk:strict"},
    }
    folder = tmp_path_factory.mktemp("locales")
    for name, charset in (("zh_CN", "GBK"), ("en_US", "ISO-8859-1")):
        with contextlib.suppress(FileNotFoundError):
            command = ["localedef", "-i", name, "-f", charset, str(folder / f"{name}.{charset}")]
            if subprocess.run(command, capture_output=True).returncode == 0:
                made[charset] = {"LOCPATH": str(folder), "LC_ALL": f"{name}.{charset}", "PYTHONUTF8": "0"}
    return made


ALL = ("C", "latin-1 output", "gbk output", "GBK", "ISO-8859-1")
TELLS = """
import subprocess, sys
from pathlib import Path
from taehv.runtime.errors import exit_with
def main():
    print(*sorted(path.name for path in Path("videos").iterdir()), "\\udc80", sep="\\n")
    (Path("videos") / sys.argv[1]).read_bytes()
    open("noted", "w").write(sys.argv[1])
    command = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
    below = subprocess.run(command, capture_output=True)
    print(below.stdout.decode().strip())
    return 7
exit_with(main)
"""


def videos_in(locale: str, locales: dict[str, dict[str, str]], root: Path) -> dict[str, str]:
    """Makes the folder of videos; returns the environment of a program with that locale."""
    if locale not in locales:
        pytest.skip(f"this system cannot make a locale of {locale}")
    (root / "videos").mkdir()
    for name in NAMES:
        (root / "videos" / name).write_bytes(b"video")
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **locales[locale]}


@pytest.mark.parametrize("locale", ALL)
def test_names_are_utf8_in_files_and_in_what_is_printed_whatever_the_locale(
    locale: str, locales: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    environment = videos_in(locale, locales, tmp_path)
    command = [sys.executable, "-c", TELLS, NAMES[0]]
    result = subprocess.run([os.fsencode(word) for word in command], cwd=tmp_path, env=environment, capture_output=True)
    assert result.returncode == 7, result.stderr.decode()
    assert result.stdout.decode("utf-8").splitlines() == [*sorted(NAMES), "\\udc80", "utf-8"]
    assert (tmp_path / "noted").read_text(encoding="utf-8") == NAMES[0]


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "GBK"])
def test_the_command_lists_videos_under_their_own_names_in_any_locale(
    locale: str, locales: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    environment = videos_in(locale, locales, tmp_path)
    command = [sys.executable, "-m", "taehv.cli", "manifest", "videos"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    manifest = (tmp_path / "data/manifest/videos.csv").read_text(encoding="utf-8")
    assert [name for name in NAMES if name in manifest] == NAMES


class TestCpuQuota:
    @pytest.mark.parametrize(
        ("own", "files", "quotas"),
        [
            ("0::/", {"cpu.max": "150000 100000"}, [1.5]),
            ("0::/", {"cpu.max": "max 100000"}, []),
            ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, [2.0]),
            ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"}, [0.5, 2.0]),
            ("0::/not/seen/from/here", {"cpu.max": "300000 100000"}, [3.0]),
            ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "400000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, [4.0]),
            ("4:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, []),
            ("4:memory:/a", {"memory/a/cpu.max": "100000 100000"}, []),
            ("0::/", {}, []),
        ],
    )
    def test_it_is_read_from_version_1_and_2_of_control_groups(
        self, own: str, files: dict[str, str], quotas: list[float], tmp_path: Path
    ) -> None:
        (tmp_path / "own").write_text(f"{own}\n")
        for name, content in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(content)
        assert sorted(set(cpu_quotas(tmp_path / "own", tmp_path / "groups"))) == quotas

    @pytest.fixture
    def group_of_one_core(self) -> Iterator[Path]:
        """A real control group with the quota of one core."""
        trees = [(Path("/sys/fs/cgroup/cpu"), 1), (Path("/sys/fs/cgroup"), 2)]
        for tree, version in trees:
            group = tree / f"taehv-test-{os.getpid()}"
            try:
                group.mkdir()
                if version == 1:
                    (group / "cpu.cfs_quota_us").write_text("100000")
                else:
                    (group / "cpu.max").write_text("100000 100000")
            except OSError:
                with contextlib.suppress(OSError):
                    group.rmdir()
                continue
            yield group
            group.rmdir()
            return
        pytest.skip("control groups cannot be made here")

    def test_threads_and_workers_are_as_many_as_the_quota_gives(self, group_of_one_core: Path) -> None:
        program = (
            f"import os; open({str(group_of_one_core / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from taehv.runtime.machine import available_cores; print(available_cores())"
        )
        result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
        assert result.stdout == "1\n", result.stderr
        assert available_cores() >= 1
