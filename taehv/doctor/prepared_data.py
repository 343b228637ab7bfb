"""The prepared data: there, whole, and made with the parameters that are in force."""

from __future__ import annotations

from typing import Any

from taehv.config.params import Params, resolved
from taehv.config.profiles import Profile
from taehv.config.stage_keys import STAGE_KEYS, flatten, is_below
from taehv.data.dataset import Dataset
from taehv.data.manifest import ManifestError, read_manifest
from taehv.data.remote_shards import RemoteStoreError
from taehv.data.splits import SPLITS, SplitName
from taehv.data.store_files import StoreError
from taehv.doctor.check import Check, Level, listed
from taehv.doctor.context import RunContext
from taehv.evaluation import gate
from taehv.model.variants import VARIANTS
from taehv.runtime import paths
from taehv.runtime.hashing import sha256_of_file
from taehv.runtime.yaml_files import YamlFileError, read_yaml
from taehv.teachers.base import TeacherError, load_teacher, teacher_class

# Forced: DVC goes by names, sizes and time stamps, and leaves what it takes for up to date.
PREPARE = "run: dvc repro -f prepare_data (on a second machine: dvc pull prepare_data)"
# The folders first: DVC leaves a damaged file whose time stamp it knows.
AGAIN = (
    "run: rm -rf data/clips data/teacher && dvc checkout --force data/clips data/teacher data/dataset.json, "
    "or make them again: dvc repro -f prepare_data"
)

MOST_READ_BYTES = 16 * 10**9
"""Of shards, evenly spaced, whose checksums are compared; all of a large store would take days."""


def check_prepared_data(context: RunContext) -> list[Check]:
    """From the manifest to the clips; what DVC will make anyway is a warning only."""
    params = context.params
    made_later: Level = "warn" if context.whole_pipeline else "fail"
    dataset = context.dataset
    if dataset is None:
        missing = f"{paths.DATASET} is missing or unreadable"
        return [Check("data", made_later, missing, PREPARE), *_check_manifest()]
    try:
        counts = {split: len(dataset.index.rows(split)) for split in SPLITS}
    except StoreError as error:
        return [Check("clips", "fail", str(error), AGAIN)]
    if 0 in counts.values():
        return [Check("clips", "fail", f"the index lists {counts} clips", AGAIN)]
    return [
        _check_shards(dataset, counts, context.profile, contents=not context.at_start_of_stage),
        _check_hash(dataset, params.active.teacher.name),
        _check_teacher(params),
        _check_parameters(params, made_later),
    ]


def check_gate(context: RunContext) -> list[Check]:
    """The verdict that h100_train will ask for, where nothing will make it before."""
    if context.whole_pipeline or context.at_start_of_stage or "h100_train" not in context.stages:
        return []
    outputs = paths.training_outputs("a800_test")
    try:
        verdict = gate.check_fresh(paths.GATE_VERDICT, outputs, context.params, paths.DATASET)
    except gate.GateRefusal as refusal:
        return [Check("gate", "fail", str(refusal), "h100_train will refuse to start: do what the line above says")]
    step = context.params.h100_train.resume_from_a800_step
    checkpoint = outputs.checkpoints / f"step-{step}"
    if step is not None and not checkpoint.is_dir():
        advice = "run: dvc checkout runs/a800_test/checkpoints (or dvc pull a800_test)"
        return [Check("gate", "fail", f"{checkpoint}, from which h100_train is to continue, is missing", advice)]
    return [Check("gate", "pass", f"{verdict.psnr_db:.2f} dB at step {verdict.step}, about the files that are here")]


def _check_manifest() -> list[Check]:
    try:
        return [Check("manifest", "pass", f"{len(read_manifest(paths.MANIFEST))} videos in {paths.MANIFEST}")]
    except ManifestError as error:
        return [Check("manifest", "fail", str(error), "write it: taehv manifest FOLDER")]


def _check_shards(dataset: Dataset, counts: dict[SplitName, int], profile: Profile, *, contents: bool) -> Check:
    """Every shard's size, and on request the bytes of as many as can be read in about half a minute."""
    files = dataset.files
    shards = list(files.shards.values())
    readable = min(max(MOST_READ_BYTES * len(shards) // sum(shard.bytes for shard in shards), 1), len(shards))
    read = [shards[number * len(shards) // readable] for number in range(readable)] if contents else []
    shown = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    remote = dataset.remote(profile)
    try:
        if remote is not None:
            remote.check(shards)
            return Check("clips", "pass", f"{shown}; {len(shards):,} shards of the right size at {remote.url}")
        files.check_sizes(shards)
        files.check_contents(read)
    except RemoteStoreError as error:
        return Check("clips", "fail", str(error), "see the line above")
    except StoreError as error:
        return Check("clips", "fail", str(error), AGAIN)
    found = f"{len(shards):,} shards of the right size" + (f", {len(read):,} of them read whole" if contents else "")
    return Check("clips", "pass", f"{shown}; {found}")


def _check_hash(dataset: Dataset, teacher: str) -> Check:
    try:
        teacher_matches = sha256_of_file(paths.TEACHER / teacher_class(teacher).WEIGHTS) == dataset.teacher_sha256
    except OSError as error:
        return Check("data hash", "fail", f"the teacher's weights cannot be read ({error})", AGAIN)
    others = [what for what, matches in (("clips", dataset.matches), ("teacher", teacher_matches)) if not matches]
    if others:
        shown = f"{' and '.join(others)}: not what {paths.DATASET} describes ({dataset.sha256[:12]})"
        return Check("data hash", "fail", shown, AGAIN)
    return Check("data hash", "pass", f"{dataset.sha256[:12]}, as {paths.DATASET} says")


def _check_teacher(params: Params) -> Check:
    name = params.active.teacher.name
    try:
        load_teacher(name, paths.TEACHER, VARIANTS[params.active.model.variant])
    except TeacherError as error:
        return Check("teacher", "fail", str(error), AGAIN)
    return Check("teacher", "pass", f"{name} loads and fits {params.active.model.variant}")


def _check_parameters(params: Params, made_later: Level) -> Check:
    """What prepare_data noted of its parameters, against those that are in force."""
    try:
        content: Any = read_yaml(paths.PREPARE_PARAMS)
        noted = flatten(content)
    except (OSError, YamlFileError, AttributeError) as error:
        return Check("data params", made_later, f"{paths.PREPARE_PARAMS} cannot be read ({error})", PREPARE)
    wanted = [key.removeprefix("@.") for key in STAGE_KEYS["prepare_data"]]
    now = {key: value for key, value in flatten(resolved(params)).items() if is_below(key, wanted)}
    then = {key: value for key, value in noted.items() if is_below(key, wanted)}
    changed = [
        f"{key}: {then.get(key)} then, {now.get(key)} now" for key in now | then if now.get(key) != then.get(key)
    ]
    if changed:
        return Check("data params", made_later, f"changed since prepare_data: {listed(changed)}", PREPARE)
    return Check("data params", "pass", f"{len(now)} parameters as prepare_data used them")
