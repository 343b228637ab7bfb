"""Many trainings of the embedded default, each in a process of its own: seeds, the founding story, unseen sources.

    make bench-trainings ARGS=seeds                       # seeds 0 .. 4 of params.yaml as it is
    make bench-trainings ARGS=founding-story              # seeds 0 .. 2: which of the suspects gives what
    make bench-trainings ARGS=unseen-source               # train on two videos, validate on the third
    make bench-trainings ARGS="tune --seeds 100 --set scales.embedded.optim.muon_lr=0.02"

Each training is a800_test's, on the prepared clips, without DVC and tracking; it takes
about 8 minutes on one core. Results are appended to benchmarks/trainings.jsonl as they come in. A training that is
there already, with the same parameters and data, is not run again: an interrupted call goes on where it ended, and
`--table` prints what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import yaml

from taehv.config.params import Params, parse_params
from taehv.config.profiles import Profile, load_profile
from taehv.config.stage_keys import stage_params
from taehv.data.clip_store import ClipStore, open_index
from taehv.data.dataset import Dataset
from taehv.data.list_videos import describe
from taehv.data.manifest_writer import write_manifest
from taehv.data.sources import NAMES, SampleFiles, sample_videos
from taehv.runtime import paths
from taehv.runtime.hashing import sha256_of_json
from taehv.training.run_spec import RunSpec

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks/trainings.jsonl"
SHIFT = 3

Mistake = Literal["none", "shifted training", "shifted validation"]

NO_BOOST: dict[str, Any] = {"scales.embedded.distillation.boost": 1.0}
LEGACY: dict[str, Any] = {
    "loss.recon": 0.1,
    "loss.encoder": 1.0,
    "loss.decoder": 1.0,
    "loss.perceptual": 0.02,
    "loss.seraena": 0.3,
    "scales.embedded.seraena.start_step": 1,
    **NO_BOOST,
}
RECON_ONLY: dict[str, Any] = {f"loss.{term}": 0.0 for term in ("encoder", "decoder", "perceptual", "seraena")}
GUIDE_RATE = 1.0e-4
LEGACY_RATE_RATIO = 0.5
"""The legacy learning rate, 5e-5, against the guide's 1e-4."""


@dataclass(frozen=True)
class Training:
    """What distinguishes a training from the default."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """Parameters by dotted key."""
    mistake: Mistake = "none"
    unseen: str | None = None
    """The source that is left out of the training clips and alone validated on."""


def founding_story(params: Mapping[str, Any]) -> dict[str, Training]:
    """By name: the suspects of the 4.2 dB."""
    optim = params["scales"]["embedded"]["optim"]
    slow = LEGACY | {f"scales.embedded.optim.{key}": optim[key] * LEGACY_RATE_RATIO for key in ("lr", "muon_lr")}
    adamw = {"name": "adamw", "muon_lr": None, "muon_momentum": None, "lr": GUIDE_RATE}
    literal = {f"scales.embedded.optim.{key}": value for key, value in adamw.items()}
    literal_slow = literal | {"scales.embedded.optim.lr": GUIDE_RATE * LEGACY_RATE_RATIO}
    return {
        "the default: guide, distilled harder at first": Training(),
        "guide": Training(NO_BOOST),
        "recon only": Training(RECON_ONLY),
        "legacy": Training(slow),
        "legacy, our learning rate": Training(LEGACY),
        "legacy + 3-frame shift": Training(slow, "shifted training"),
        "guide + 3-frame shift": Training(NO_BOOST, "shifted training"),
        "guide, AdamW at 1e-4": Training(NO_BOOST | literal),
        "legacy, AdamW at 5e-5": Training(LEGACY | literal_slow),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["seeds", "founding-story", "unseen-source", "tune"])
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 .. 4, 0 .. 2, 0 and 100, by study")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changed parameters, for tune")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, on one core each (default: 2)")
    parser.add_argument("--table", action="store_true", help="train nothing, print the results so far")
    options = parser.parse_args()
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    changes = {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in options.set)}
    studies: dict[str, tuple[dict[str, Training], list[int]]] = {
        "seeds": ({"default": Training()}, [0, 1, 2, 3, 4]),
        "founding-story": (founding_story(params), [0, 1, 2]),
        "unseen-source": ({f"without {name}": Training(unseen=name) for name in NAMES}, [0]),
        "tune": ({" ".join(options.set) or "default": Training(changes)}, [100]),
    }
    trainings, seeds = studies[options.study]
    plans = [plan(params, training, seed) for seed in options.seeds or seeds for training in trainings.values()]
    if not options.table:
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(run_unless_done, plans))
    print(table(trainings, params))


def plan(params: Mapping[str, Any], training: Training, seed: int) -> dict[str, Any]:
    """A training as JSON: its parameters in full, so that results of another params.yaml never count for this one."""
    raw = changed(params, {**training.changes, "seed": seed})
    # Every training goes to its end, however bad it is.
    raw["a800_test"]["abort_below_db"] = 0.0
    raw["faults"]["max_loss_spike"] = 1.0e9
    keys = stage_params(parse_params(raw), "a800_test")
    dataset = json.loads((REPOSITORY / paths.DATASET).read_text())["dataset_sha256"]
    facts = {"params": keys, "dataset_sha256": dataset, "mistake": training.mistake, "unseen": training.unseen}
    return {"id": sha256_of_json(facts)[:16], "raw": raw, "seed": seed, **facts}


def run_unless_done(planned: dict[str, Any]) -> None:
    """Train in a process of its own and append its result."""
    if any(done["id"] == planned["id"] for done in results()):
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from benchmarks.trainings import train; train()"]
        environment = os.environ | {"TAEHV_ROOT": folder, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            command, cwd=REPOSITORY, env=environment, input=json.dumps(planned), text=True, capture_output=True
        )
    if finished.returncode != 0:
        sys.exit(f"{planned['id']}\n{finished.stderr[-3000:]}")
    line = finished.stdout.splitlines()[-1]
    with RESULTS.open("a") as file:
        file.write(line + "\n")
    print(line[:300], flush=True)


def train() -> None:
    """The child process: one training, its plan on standard input, its result on standard output."""
    import torch

    from taehv.evaluation.test_set import Scorer, on_teacher_latents
    from taehv.losses.metrics import psnr_per_clip
    from taehv.teachers.base import load_teacher
    from taehv.training.build import start_accelerator
    from taehv.training.trainer import NullRecorder, Trainer

    planned = json.load(sys.stdin)
    params = parse_params(planned["raw"])
    profile = load_profile("local").model_copy(update={"threads": 1})
    clips, teacher = (REPOSITORY / path for path in (paths.CLIPS, paths.TEACHER))
    validation = ClipStore.open(clips, "val")
    if planned["unseen"] is not None:
        validation = of_source(validation, planned["unseen"])
        clips, teacher = prepared_without(planned["unseen"], params, profile)
    spec = RunSpec("a800_test", params, profile, Dataset.open(clips.with_name(paths.DATASET.name)), teacher)
    with made_on_purpose(planned["mistake"]):
        trainer = Trainer(spec, start_accelerator(spec), NullRecorder())
        trainer.validate = dataclasses.replace(trainer.validate, store=validation)
        outcome = trainer.run()
    with made_on_purpose("shifted validation"):
        shifted = trainer.validate(outcome.state, None)
    linear = load_teacher(params.active.teacher.name, teacher, outcome.state.ema.variant)
    bench = Scorer(validation, {"psnr": psnr_per_clip}, torch.device("cpu"), profile.validation_batch)
    on_latents = bench.scores(on_teacher_latents(outcome.state.ema.eval(), linear))["psnr"]
    measured = {key: outcome.summary[key] for key in ("clips_per_second", "loss_terms", "counters")}
    history = outcome.state.progress.history
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    facts = {key: planned[key] for key in ("id", "seed", "mistake", "unseen")}
    facts |= {"commit": commit.stdout.strip(), "history": history, "psnr_on_shifted_targets": shifted["psnr"]}
    facts |= {"psnr_on_teacher_latents": float(on_latents.mean())}
    print(json.dumps(facts | measured))


def of_source(store: ClipStore, source: str) -> ClipStore:
    """The validation clips of one source, numbered anew."""
    index = open_index(store.root)
    rows = [row for row in index.rows("val") if index.record(row).source == source]
    return ClipStore(store.root, index, "val", rows)


def prepared_without(source: str, params: Params, profile: Profile) -> tuple[Path, Path]:
    """Clips and teacher of the other sources alone, made below the child's own folder."""
    from taehv.data.prepare import prepare

    os.chdir(os.environ["TAEHV_ROOT"])
    others = [name for name in NAMES if name != source]
    entries = describe(SampleFiles(sample_videos()), others)
    write_manifest(paths.MANIFEST, ((entry, {}) for entry in entries), videos=len(entries))
    samples = params.active.validation.samples * len(others) // len(NAMES)
    scale = params.active.model_copy(
        update={"validation": params.active.validation.model_copy(update={"samples": samples})}
    )
    prepare(params.model_copy(update={"scales": {**params.scales, params.scale: scale}}), profile)
    return paths.CLIPS.resolve(), paths.TEACHER.resolve()


def changed(params: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with some dotted keys set."""
    raw = copy.deepcopy(dict(params))
    for key, value in changes.items():
        *parents, last = key.split(".")
        section: Any = raw
        for parent in parents:
            section = section[parent]
        if last not in section:
            raise SystemExit(f"params.yaml has no {key}")
        section[last] = value
    return raw


@contextlib.contextmanager
def made_on_purpose(mistake: Mistake) -> Iterator[None]:
    """Compare decoded frame j with input frame j + 3, in every loss term or in validation."""
    from taehv.losses.metrics import common_frames
    from taehv.losses.perceptual import PERCEPTUAL

    def shifted(compare: Any) -> Any:
        return lambda decoded, frames: compare(decoded, frames[:, SHIFT:])

    with contextlib.ExitStack() as stack:
        if mistake == "shifted training":
            for target in ("taehv.losses.objective.common_frames", "taehv.training.adversary.common_frames"):
                stack.enter_context(mock.patch(target, shifted(common_frames)))
            distances = {name: shifted(distance) for name, distance in PERCEPTUAL.items()}
            stack.enter_context(mock.patch.dict(PERCEPTUAL, distances))
        elif mistake == "shifted validation":
            stack.enter_context(mock.patch("taehv.losses.metrics.common_frames", shifted(common_frames)))
        yield


def results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table(trainings: Mapping[str, Training], params: Mapping[str, Any]) -> str:
    """Mean and range over seeds of the last validation, for each training that has results."""
    columns = ["training", "seeds", "PSNR dB, mean (range)", "on teacher latents", "on shifted targets", "worst clip"]
    columns += ["by source", "gradient"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    by_id = {row["id"]: row for row in results()}
    seeds = sorted({row["seed"] for row in by_id.values()})
    for name, training in trainings.items():
        ids = [plan(params, training, seed)["id"] for seed in seeds]
        members = [by_id[found] for found in ids if found in by_id]
        if members:
            lines.append(f"| {name} | {summary(members)} |")
    return "\n".join(lines)


def summary(members: list[dict[str, Any]]) -> str:
    last = [member["history"][-1] for member in members]
    shifted = statistics.mean(member["psnr_on_shifted_targets"] for member in members)
    on_latents = statistics.mean(member["psnr_on_teacher_latents"] for member in members)
    sources = ", ".join(
        f"{source.split('.')[0]} {statistics.mean(row['psnr_by_source'][source] for row in last):.1f}"
        for source in last[0]["psnr_by_source"]
    )
    pulls = ", ".join(f"{t} {entry.get('gradient_share', 0):.0%}" for t, entry in members[0]["loss_terms"].items())
    psnr = [row["psnr"] for row in last]
    spread = f"{statistics.mean(psnr):.2f} ({min(psnr):.2f} .. {max(psnr):.2f})"
    worst = min(row["psnr_worst_clip"] for row in last)
    seeds = " ".join(str(member["seed"]) for member in members)
    return f"{seeds} | {spread} | {on_latents:.2f} | {shifted:.2f} | {worst:.1f} | {sources} | {pulls}"


if __name__ == "__main__":
    main()
