"""prepare_data on real files: real decoding, real worker processes, real stores."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.labelled_videos import labelled_frame, make_video
from support.video_files import list_videos, numbered_video, small_params, write_audio_only, write_mp4, write_video

from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions, Params
from taehv.config.profiles import Profile, load_profile
from taehv.data.clip_codec import Clip, psnr_db
from taehv.data.clip_index import ClipRecord
from taehv.data.clip_plan import DatasetPlan, plan_dataset
from taehv.data.clip_store import ClipStore, open_index
from taehv.data.dataset import write_quarantine
from taehv.data.extract_clips import CutFailed, UnusableVideos, WrittenShards, cut_shards
from taehv.data.inspect_video import Quarantined, Video, inspect_video
from taehv.data.list_videos import describe
from taehv.data.manifest import FORMULA_STARTS
from taehv.data.prepare import NoDatasetError, _report, prepare
from taehv.data.rgb_frames import FrameConverter
from taehv.data.sampler import SlotDraw, SlotSampler, load_slots
from taehv.data.shard_plan import ShardPlan
from taehv.data.sources import FolderFiles
from taehv.data.splits import SPLITS, SplitName, split_of_video
from taehv.data.store_files import StoreFiles
from taehv.data.workers import Workers
from taehv.model.variants import VARIANTS
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file
from taehv.teachers.base import load_teacher
from taehv.teachers.pca import PcaTeacher

CLIPS, TEACHER = Path("data/clips"), Path("data/teacher")
STORED_AS = small_params().active.data.store


def with_workers(workers: int) -> Profile:
    return load_profile("local", Path(__file__).parents[2] / "profiles").model_copy(update={"workers": workers})


def run(params: Params, workers: int = 1) -> dict[str, Any]:
    return prepare(params, with_workers(workers))


def quarantine() -> dict[str, str]:
    with Path("data/quarantine.csv").open(encoding="utf-8") as file:
        return {row["path"]: f"{row['reason']}: {row['detail']}" for row in csv.DictReader(file)}


def used_videos() -> list[str]:
    """The paths of the videos that have clips."""
    index = open_index(CLIPS)
    return sorted({index.record(row).source for row in range(len(index))})


def expected_clip(record: ClipRecord) -> np.ndarray[Any, Any]:
    """Red and green of a clip cut from a numbered video: frame number, and (x + 3 y) mod 256."""
    numbers = record.first_frame + record.frame_stride * np.arange(record.frames)
    y, x = np.mgrid[record.top : record.top + record.height, record.left : record.left + record.width]
    red = np.broadcast_to(numbers[:, None, None], (record.frames, record.height, record.width))
    return np.stack([red, np.broadcast_to((x + 3 * y) % 256, red.shape)], axis=1)


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for videos in an empty project, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("stride", [1, 2])
def test_frame_numbers_and_places_survive_from_the_video_to_the_training_batch(videos: Path, stride: int) -> None:
    numbered_video(videos / "a.mkv", 100)
    list_videos(["a.mkv"])
    run(small_params(frame_stride=stride))
    for split in SPLITS:
        store = ClipStore.open(CLIPS, split)
        for record in store.records:
            np.testing.assert_array_equal(store.clip(record.clip_id)[:, :2], expected_clip(record))
    train = ClipStore.open(CLIPS, "train")
    sampler = SlotSampler(train.columns(), seed=1, global_batch=6, height=16, width=16, frames=4, horizontal_flip=True)
    draws = [draw for step in range(4) for draw in sampler.draw_step(step, range(6))]
    for draw, crop in zip(draws, load_slots(train, draws, 16, 16, 4).numpy(), strict=True):
        np.testing.assert_array_equal(crop[:, :2], expected_crop(train, draw))


def expected_crop(train: ClipStore, draw: SlotDraw) -> np.ndarray[Any, Any]:
    record = train.record(draw.clip_id)
    cut = dataclasses.replace(
        record,
        first_frame=record.first_frame + draw.first_frame * record.frame_stride,
        top=record.top + draw.top,
        left=record.left + draw.left,
        frames=4,
        height=16,
        width=16,
    )
    clip = expected_clip(cut)
    return clip[..., ::-1] if draw.flip else clip


def test_no_stored_validation_or_test_frame_is_in_a_stored_training_clip(videos: Path) -> None:
    for number in range(2):
        numbered_video(videos / f"{number}.mkv", 60, first=100 * number)
    list_videos(["0.mkv", "1.mkv"])
    dataset = run(small_params())
    assert dataset["split_rule"] == "by time"
    shown = {
        split: {int(frame) for record in store.records for frame in store.clip(record.clip_id)[:, 0].reshape(-1)}
        for split in SPLITS
        if (store := ClipStore.open(CLIPS, split))
    }
    assert not shown["train"] & shown["val"]
    assert not shown["train"] & shown["test"]
    assert not shown["val"] & shown["test"]


def test_whole_videos_are_in_one_split_when_there_are_enough(videos: Path) -> None:
    names = [numbered_video(videos / f"{number}.mkv", 8, first=number).name for number in range(16)]
    list_videos(names)
    dataset = run(small_params(split={"by_video_from": 16}), workers=2)
    assert dataset["split_rule"] == "by video"
    sources = [set(ClipStore.open(CLIPS, split).sources) for split in SPLITS]
    assert sum(map(len, sources)) == len(set.union(*sources)) == dataset["videos"] == 16
    assert [facts["videos"] for facts in dataset["splits"].values()] == list(map(len, sources))


def test_400_videos_more_than_needed_are_one_counted_line(capsys: pytest.CaptureFixture[str]) -> None:
    quarantined = [Quarantined(f"=\x1b{number}.mp4", "too short", "the video has 1 frames") for number in range(400)]
    _report(DatasetPlan("by video", (), 58, tuple(quarantined), 0), quarantined)
    printed = capsys.readouterr().out.splitlines()
    assert "58 videos more than validation and test need (validation.samples) are trained on, whole" in printed
    assert printed[-1] == "left out: 400 videos in all (400 too short); data/quarantine.csv lists them"
    assert len(printed) < 25 and "\x1b" not in "".join(printed)


def test_nothing_in_the_list_of_left_out_videos_is_a_formula_to_a_spreadsheet(videos: Path) -> None:
    names = [
        "=cmd|' C calc'!A0.mp4",
        "+1.mp4",
        "-1.mp4",
        "@SUM(A1).mp4",
        "\ttab.mp4",
        "\rreturn.mp4",
        "\uff1dwide.mp4",
    ]
    for name in names:
        (videos / name).write_bytes(name.encode())
    list_videos(names)
    with pytest.raises(NoDatasetError):
        run(small_params())
    with Path("data/quarantine.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert not [cell for row in rows for cell in row if cell.startswith(FORMULA_STARTS)]
    assert sorted((videos / row[0]).resolve() for row in rows[1:]) == sorted(
        (videos / name).resolve() for name in names
    )
    write_quarantine(Path("data/quarantine.csv"), [Quarantined("a.mp4", "corrupt", "=1+1")])
    assert "'=1+1" in Path("data/quarantine.csv").read_text()


def test_one_and_two_workers_make_the_same_dataset_byte_for_byte(videos: Path) -> None:
    for number in range(3):
        numbered_video(videos / f"{number}.mkv", 40 + number, first=20 * number)
    list_videos(["0.mkv", "1.mkv", "2.mkv"])

    def made(workers: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        dataset = run(small_params(samples=6), workers)
        files = [path for path in Path("data").rglob("*") if path.is_file()]
        return dataset, {path.as_posix(): path.read_bytes() for path in files}

    first, second = made(1), made(2)
    assert first[0]["dataset_sha256"] == second[0]["dataset_sha256"]
    assert first == second
    assert len(list(CLIPS.glob("train-*.tar"))) == 3, "one shard would leave nothing to the second worker"


@pytest.mark.parametrize("codec", ["lossless", "near-lossless"])
def test_clips_stored_as_video_are_smaller_and_near_and_held_out_ones_exact(videos: Path, codec: str) -> None:
    for name, first in (("a.mkv", 0), ("b.mkv", 70)):
        numbered_video(videos / name, 60, first=first)
    list_videos(["a.mkv", "b.mkv"])
    raw = run(small_params())
    exact = {split: list(stored_clips(split)) for split in SPLITS}
    dataset = run(small_params(store={"codec": codec}), workers=2)
    assert dataset["codec"] == codec and dataset["stored_bytes"] < raw["stored_bytes"]
    for split in ("val", "test"):
        assert {record.codec for record in ClipStore.open(CLIPS, split).records} == {"lossless"}
        np.testing.assert_array_equal(list(stored_clips(split)), exact[split])
    assert {record.codec for record in ClipStore.open(CLIPS, "train").records} == {codec}
    measured = [psnr_db(*pair) for pair in zip(exact["train"], stored_clips("train"), strict=True)]
    if codec == "lossless":
        assert set(measured) == {np.inf} and dataset["psnr_db"] is None
    else:
        expected = {"mean": round(float(np.mean(measured)), 3), "worst": round(min(measured), 3)}
        assert dataset["psnr_db"] == pytest.approx(expected, abs=1e-3)
        assert 45 < expected["worst"] <= expected["mean"]


def stored_clips(split: SplitName) -> Iterator[Clip]:
    store = ClipStore.open(CLIPS, split)
    return (store.clip(clip_id) for clip_id in range(len(store)))


def test_clips_stored_as_video_are_the_same_byte_for_byte_whatever_the_workers(videos: Path) -> None:
    for number in range(3):
        numbered_video(videos / f"{number}.mkv", 40 + number, first=20 * number)
    list_videos(["0.mkv", "1.mkv", "2.mkv"])
    made = []
    for workers in (1, 2):
        run(small_params(store={"codec": "near-lossless"}), workers)
        made.append({path.as_posix(): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()})
    assert made[0] == made[1]


def test_files_are_few_however_many_the_videos_and_each_shard_is_about_as_large_as_asked(videos: Path) -> None:
    names = [numbered_video(videos / f"{number:02d}.mkv", 8, first=number).name for number in range(24)]
    list_videos(names)
    dataset = run(small_params(split={"by_video_from": 2}, store={"shard_mb": 0.5}), workers=2)
    shards = StoreFiles.read(CLIPS).shards
    assert dataset["splits"]["train"]["shards"] == len(list(CLIPS.glob("train-*.tar"))) < len(names) / 2
    assert len(list(CLIPS.iterdir())) == len(shards) + 2
    assert all(shard.bytes <= 500_000 + shard.clips * 1024 + 10240 for shard in shards.values())
    assert sum(shard.bytes for shard in shards.values()) == dataset["stored_bytes"] >= dataset["bytes"] > 800_000


def test_what_dataset_json_says_does_not_grow_with_the_videos(videos: Path) -> None:
    names = [numbered_video(videos / f"{number:02d}.mkv", 8, first=number).name for number in range(24)]
    params = small_params(split={"by_video_from": 2}, store={"shard_mb": 1})
    list_videos(names)
    run(params)
    many = Path("data/dataset.json").stat().st_size
    list_videos(names[:12])
    run(params)
    assert abs(many - Path("data/dataset.json").stat().st_size) < 100


def test_the_outputs_are_complete_and_checked(videos: Path) -> None:
    numbered_video(videos / "a.mkv", 60)
    list_videos(["a.mkv"])
    dataset = run(small_params(samples=4))
    assert json.loads(Path("data/dataset.json").read_text()) == dataset
    assert dataset["schema"] == 2
    assert dataset["splits"]["val"] == {"clips": 4, "shards": 1, "videos": 1, "first_videos": ["a.mkv"]}
    assert dataset["sizes"] == {"train_clip": [8, 3, 32, 48], "held_out_clip": [4, 3, 16, 16]}
    assert dataset["bytes"] == sum(
        int(np.prod(r.shape)) for split in SPLITS for r in ClipStore.open(CLIPS, split).records
    )
    for split in SPLITS:
        ClipStore.open(CLIPS, split).verify()
    files = StoreFiles.read(CLIPS)
    files.check_contents([files.index, *files.shards.values()])
    teacher = load_teacher("pca", TEACHER, VARIANTS["hunyuan_video"])
    assert teacher.latent_channels == 16
    assert sorted(path.name for path in Path("data").iterdir()) == [
        "clips",
        "dataset.json",
        "manifest",
        "quarantine.csv",
        "teacher",
    ]


def test_broken_files_are_left_out_with_reasons_and_the_run_goes_on(videos: Path) -> None:
    numbered_video(videos / "good.mkv", 60)
    numbered_video(videos / "three frames.mkv", 3)
    numbered_video(videos / "small.mkv", 60, height=16, width=64)
    for name, index_first in [("no index.mp4", False), ("cut.mp4", True)]:
        path = write_mp4(videos / name, 60, index_first=index_first)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (videos / "zero.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("not a video\n" * 100)
    write_audio_only(videos / "audio.mp4")
    (videos / "copy.mkv").write_bytes((videos / "good.mkv").read_bytes())
    for name in ("gone.mkv", "changed.mkv"):
        (videos / name).write_bytes(b"as listed")
    list_videos(["good.mkv", *sorted(path.name for path in videos.iterdir() if path.name != "good.mkv")])
    (videos / "gone.mkv").unlink()
    (videos / "changed.mkv").write_bytes(b"as it is!")

    dataset = run(small_params(), workers=2)

    assert used_videos() == ["good.mkv"]
    assert (dataset["videos"], dataset["quarantined"]) == (1, 10)
    reasons = quarantine()
    assert {path: reason.split(":")[0] for path, reason in reasons.items()} == {
        "audio.mp4": "no video stream",
        "changed.mkv": "changed",
        "copy.mkv": "duplicate",
        "cut.mp4": "truncated",
        "gone.mkv": "missing",
        "no index.mp4": "corrupt",
        "small.mkv": "too small",
        "text.mp4": "corrupt",
        "three frames.mkv": "too short",
        "zero.mp4": "corrupt",
    }
    assert reasons["changed.mkv"] == "changed: its sha256 is not the manifest's"
    assert reasons["small.mkv"] == "too small: 64x16 pixels, the stored canvas is 48x32 (width x height)"


def write_damaged(path: Path, frames: int = 60) -> None:
    """A video whose damage is found when it is decoded, not before."""
    data = bytearray(write_mp4(path, frames, index_first=True).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(byte ^ 0xFF for byte in data[middle : middle + 400])
    path.write_bytes(bytes(data))


def test_a_video_that_breaks_only_when_decoded_leaves_its_place_to_the_others(videos: Path) -> None:
    numbered_video(videos / "good.mkv", 60)
    write_damaged(videos / "bad.mp4")
    list_videos(["bad.mp4", "good.mkv"])
    params = small_params(samples=4, store={"shard_mb": 100})
    dataset = run(params)
    assert quarantine()["bad.mp4"].startswith("corrupt: frame ")
    assert dataset["splits"]["val"] == {"clips": 4, "shards": 1, "videos": 1, "first_videos": ["good.mkv"]}
    assert {path.name for path in CLIPS.iterdir()} == {"index.arrow", "shards.csv", *StoreFiles.read(CLIPS).shards}

    (videos / "bad.mp4").unlink()
    list_videos(["good.mkv"])
    assert run(params)["dataset_sha256"] == dataset["dataset_sha256"]


def test_a_video_that_breaks_only_when_decoded_has_no_shard_written_again_but_its_own(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one that would have been trained on, so that the others' clips do not change either."""
    params = small_params(samples=1, split={"by_video_from": 2}, store={"shard_mb": 0.7})
    names = [numbered_video(videos / f"{number}.mkv", 8, first=number).name for number in range(9)]
    for frames in itertools.count(60):
        write_damaged(videos / "4.mp4", frames)
        if split_of_video(sha256_of_file(videos / "4.mp4"), params.active.data.split) == "train":
            break
    list_videos(sorted([*names, "4.mp4"]))
    rounds: list[list[tuple[str, ...]]] = []
    work = Workers.map

    def noted(self: Workers, function: Any, tasks: Sequence[Any], **shown: Any) -> Any:
        rounds.append([task.names for task in tasks if isinstance(task, ShardPlan)])
        return work(self, function, tasks, **shown)

    monkeypatch.setattr(Workers, "map", noted)
    dataset = run(params)
    assert dataset["videos"] == 9 and set(quarantine()) == {"4.mp4"}
    inspected, first, *again = rounds
    assert inspected == [] and len(first) > 3
    assert [len(shards) for shards in again] == [1] and set(again[0]) <= set(first)


def test_hdr_interlaced_and_unknown_colours_are_left_out_by_name_and_the_run_goes_on(videos: Path) -> None:
    numbered_video(videos / "good.mkv", 60)
    make_video(videos / "hdr.mp4", 60, tags={"color_trc": 16, "color_primaries": 9, "colorspace": 9})
    make_video(videos / "matrix.mp4", 20, tags={"colorspace": 8})
    woven = [labelled_frame(number) for number in range(0, 120, 2)]
    for number, frame in enumerate(woven):
        frame[1::2] = labelled_frame(2 * number + 1)[1::2]
    write_video(videos / "woven.mp4", woven, *woven[0].shape[:2])
    first, second = make_video(videos / "a.ts", 20), make_video(videos / "b.ts", 20, tags={"colorspace": 8})
    (videos / "middle.ts").write_bytes(first.read_bytes() + second.read_bytes())
    names = ["good.mkv", "hdr.mp4", "matrix.mp4", "middle.ts", "woven.mp4"]
    list_videos(names)

    run(small_params())
    assert used_videos() == ["good.mkv"]
    assert {path: reason.split(":")[0] for path, reason in quarantine().items()} == {
        "hdr.mp4": "hdr",
        "matrix.mp4": "unsupported",
        "middle.ts": "corrupt",
        "woven.mp4": "interlaced",
    }

    convert = Conversions(hdr="tonemap", interlaced="deinterlace")
    for entry in describe(FolderFiles(videos), ["hdr.mp4", "woven.mp4"]):
        found = inspect_video((entry, videos / entry.path), limits=DEFAULT_LIMITS, conversions=convert)
        assert isinstance(found, Video)
        shard = ShardPlan(0, plan_dataset([found], small_params().active.data, 2).videos)
        written = cut_shards(
            shard, store=videos / "store", stored_as=STORED_AS, limits=DEFAULT_LIMITS, conversions=convert
        )
        assert isinstance(written, WrittenShards)
        assert len(written.records) == len(shard.videos[0].clips)


def test_an_error_that_nobody_thought_of_is_that_videos_and_the_others_go_on(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered_video(videos / "a.mkv", 60)

    def broken(*_: Any) -> Any:
        raise AttributeError("a bug in a library")

    (entry,) = describe(FolderFiles(videos), ["a.mkv"])
    found = inspect_video((entry, videos / "a.mkv"), limits=DEFAULT_LIMITS, conversions=NO_CONVERSIONS)
    assert isinstance(found, Video)
    shard = ShardPlan(0, plan_dataset([found], small_params().active.data, 2).videos)
    monkeypatch.setattr(FrameConverter, "rgb", broken)
    found = inspect_video((entry, videos / "a.mkv"), limits=DEFAULT_LIMITS, conversions=NO_CONVERSIONS)
    assert found == Quarantined("a.mkv", "unreadable", "AttributeError: a bug in a library")
    failed = cut_shards(
        shard, store=videos / "store", stored_as=STORED_AS, limits=DEFAULT_LIMITS, conversions=NO_CONVERSIONS
    )
    assert failed == UnusableVideos({"a.mkv": CutFailed("unreadable", "AttributeError: a bug in a library")})


def test_all_videos_bad_is_an_error_that_lists_the_reasons(videos: Path) -> None:
    (videos / "zero.mp4").write_bytes(b"")
    numbered_video(videos / "tiny.mkv", 60, height=16, width=16)
    list_videos(["tiny.mkv", "zero.mp4"])
    with pytest.raises(UserError) as caught:
        run(small_params())
    message = str(caught.value)
    assert "No video can be used" in message
    assert "  - zero.mp4: corrupt: it cannot be opened" in message
    assert "  - tiny.mkv: too small: 16x16 pixels" in message
    assert set(quarantine()) == {"tiny.mkv", "zero.mp4"}
    assert not CLIPS.exists()


def test_an_empty_split_is_an_error_that_says_what_to_change(videos: Path) -> None:
    numbered_video(videos / "a.mkv", 60)
    list_videos(["a.mkv"])
    with pytest.raises(UserError, match=r"leaves no clips for .*raise data.split.by_video_from above 1"):
        run(small_params(split={"by_video_from": 1}))


def test_too_little_disk_is_an_error_before_anything_is_written(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered_video(videos / "a.mkv", 60)
    list_videos(["a.mkv"])
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"the clips need \d+ MiB, .* has 1 MiB left"):
        run(small_params())
    assert not list(Path("data").rglob("*.tar"))


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64)])
def test_covering_scales_without_stretching_and_cuts_the_centre(videos: Path, height: int, width: int) -> None:
    numbered_video(videos / "a.mkv", 60, height=height, width=width)
    list_videos(["a.mkv"])
    run(small_params(resize="cover"))
    for record in ClipStore.open(CLIPS, "train").records:
        scaled = (record.scaled_height, record.scaled_width)
        assert scaled == ((32, 64) if width > height else (96, 48))
        assert (record.height, record.width) == (32, 48)
        assert (record.top, record.left) == ((0, 8) if width > height else (32, 0))
    store = ClipStore.open(CLIPS, "train")
    numbers = store.clip(0)[:, 0].mean((1, 2)).round()
    np.testing.assert_array_equal(numbers, np.arange(8))


def test_a_crash_leaves_no_half_dataset_and_keeps_the_old_one(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered_video(videos / "a.mkv", 60)
    list_videos(["a.mkv"])
    run(small_params())
    index = (CLIPS / "index.arrow").read_bytes()

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="crash"):
        patched.setattr(PcaTeacher, "fit", crash)
        run(small_params(clips_per_video=1))
    assert (CLIPS / "index.arrow").read_bytes() == index
    run(small_params(clips_per_video=1))
    assert not list(Path("data").glob("*.partial"))


def test_annotated_videos_are_read_from_the_annotation_files_folder(videos: Path) -> None:
    numbered_video(videos / "a.mkv", 60)
    (videos / "list.json").write_text(json.dumps({"list": [{"path": "a.mkv", "text": "a caption"}]}))
    list_videos(["a.mkv"])
    params = small_params()
    source = params.data.model_copy(update={"source": "annotations", "path": "videos/list.json"})
    run(params.model_copy(update={"data": source}))
    assert used_videos() == ["a.mkv"]


@pytest.mark.parametrize("escape", ["../secret.mkv", "link.mkv"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(videos: Path, escape: str) -> None:
    secret = numbered_video(videos.parent / "secret.mkv", 60)
    (videos / "link.mkv").symlink_to(secret)
    Path("data/manifest").mkdir(parents=True)
    Path("data/manifest/videos.csv").write_text(f"path,bytes,sha256\n{escape},1,{'0' * 64}\n")
    with pytest.raises(UserError, match="must be a path below videos|leads out of videos"):
        run(small_params())
