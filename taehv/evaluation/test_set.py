"""Measuring the finished models on the test clips, beside the teacher and mean colour on the same clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taehv.data.clip_index import ClipRecord
from taehv.data.clip_store import ClipStore
from taehv.evaluation.parity import Parity
from taehv.evaluation.run_records import finite
from taehv.losses.metrics import (
    LPIPS_BACKBONE_FILES,
    METRICS,
    ClipMetric,
    ClipScores,
    load_frames,
    score_clips,
)
from taehv.model.taehv import TAEHV
from taehv.runtime import dvc_metrics
from taehv.teachers.base import Teacher

Codec = Callable[[Tensor], Tensor]


def round_trip(model: TAEHV) -> Codec:
    """The student alone: encoder, then decoder."""
    return lambda frames: model.decode(model.encode(frames))


def on_teacher_latents(model: TAEHV, teacher: Teacher) -> Codec:
    """The student's decoder on the teacher's latents: how the model is used for previews."""
    return lambda frames: model.decode(teacher.encode(frames))


def teacher_round_trip(teacher: Teacher) -> Codec:
    """The teacher alone."""
    return lambda frames: teacher.decode(teacher.encode(frames))


def mean_colour(decoded_frames: int) -> Codec:
    """Each clip's own mean RGB over the first ``decoded_frames`` frames, the ones that every codec is compared on."""

    def fill(frames: Tensor) -> Tensor:
        compared = frames[:, :decoded_frames]
        return compared.mean(dim=(1, 3, 4), keepdim=True).expand_as(compared)

    return fill


@dataclass(frozen=True)
class Scorer:
    """The clips, the metrics and the machine that every codec is measured with."""

    store: ClipStore
    metrics: Mapping[str, ClipMetric]
    device: torch.device
    batch: int
    """Clips decoded at a time; changes memory and speed only."""

    def scores(self, codec: Codec) -> ClipScores:
        """Measure one codec on every clip, in float32."""
        everything = range(len(self.store))
        return score_clips(
            codec, self.metrics, everything, self.batch, lambda some: load_frames(self.store, some, self.device)
        )

    def summary(self, codec: Codec) -> dict[str, Any]:
        """What evaluation.json says about one codec."""
        return summarise(self.scores(codec), self.store.records)


def summarise(scores: ClipScores, records: Sequence[ClipRecord]) -> dict[str, Any]:
    """Mean over clips, each source and the worst clip. A value that is not finite is null; LPIPS is null if absent."""
    psnr = scores["psnr"]
    # A clip without a finite PSNR is the worst there is.
    worst = int(torch.nan_to_num(psnr, nan=-torch.inf).argmin())
    sources = np.array([record.source for record in records])
    by_source = {}
    for source in sorted(set(sources)):
        rows = torch.from_numpy(np.flatnonzero(sources == source))
        by_source[str(source)] = {"clips": len(rows), **_means({name: scores[name][rows] for name in scores})}
    return {**_means(scores), "by_source": by_source, "worst_clip": _describe_clip(records[worst], psnr[worst])}


def evaluate(models: Mapping[str, TAEHV], teacher: Teacher, teacher_name: str, scorer: Scorer) -> dict[str, Any]:
    """The measured part of evaluation.json: three codecs per model, two of them baselines that all models share.

    All are compared on the frames that the models decode, ``frames_compared`` of each clip.
    """
    first = next(iter(models.values()))
    stored_frames = scorer.store.records[0].frames
    compared = min(stored_frames, first.variant.decoded_frames(first.variant.latent_frames(stored_frames)))
    reference = scorer.summary(teacher_round_trip(teacher))
    return {
        "test_set": {
            "clips": len(scorer.store),
            "sources": len(scorer.store.sources),
            "frames_compared": compared,
            "height": scorer.store.records[0].height,
            "width": scorer.store.records[0].width,
        },
        "lpips_measured": {name: f"lpips_{name}" in scorer.metrics for name in LPIPS_BACKBONE_FILES},
        "models": {name: _evaluate_model(model, teacher, reference, scorer) for name, model in models.items()},
        "teacher": {"name": teacher_name, "is_linear_baseline": teacher.IS_LINEAR, **reference},
        "mean_colour": scorer.summary(mean_colour(compared)),
    }


def conclude(measured: Mapping[str, Any], parity: Parity, final_psnr_db: float) -> dict[str, Any]:
    """evaluation.json: what was measured, and whether it suffices.

    It does not where the h100_train model's test PSNR is not above ``final_psnr_db`` (or is not a number), or where
    the two runs' parity fails.
    """
    value = measured["models"]["h100_train"]["round_trip"]["psnr_db"]
    enough = value is not None and value > final_psnr_db
    reasons = []
    if not enough:
        shown = "not a number" if value is None else f"{value:.2f} dB"
        reasons.append(f"test PSNR of the h100_train model is {shown}, must be > {final_psnr_db:g} dB")
    if parity.verdict == "fail":
        reasons.append(f"parity of a800_test and h100_train: {parity.reason}")
    return {
        "schema": 1,
        "passed": not reasons,
        "reasons": reasons,
        "final_psnr": {"value": value, "limit": final_psnr_db, "passed": enough},
        "parity": {"verdict": parity.verdict, "max_abs_delta_db": parity.max_abs_delta_db},
        **measured,
    }


def describe_evaluation(report: Mapping[str, Any]) -> str:
    """evaluation.json's conclusion in a few lines of text."""
    lines = [f"evaluate {'passed' if report['passed'] else 'failed'}"]
    lines += [f"  FAILED   {reason}" for reason in report["reasons"]]
    for name, entry in report["models"].items():
        round_trip, on_latents = _decibel(entry["round_trip"]), _decibel(entry["on_teacher_latents"])
        lines.append(f"  {name}: test PSNR {round_trip} round trip, {on_latents} on teacher latents")
    lines.append(f"  teacher {_decibel(report['teacher'])}, mean colour {_decibel(report['mean_colour'])}")
    lines.append(f"  parity: {report['parity']['verdict']}")
    absent = [name for name, measured in report["lpips_measured"].items() if not measured]
    if absent:
        lines.append(f"  LPIPS ({', '.join(absent)}) is absent: its backbone weights are not on this machine")
    return "\n".join(lines)


def describe_passed(report: Mapping[str, Any]) -> str:
    """Why it passed, in one line."""
    final = report["final_psnr"]
    return f"test PSNR {final['value']:.2f} dB, must be > {final['limit']:g} dB; parity: {report['parity']['verdict']}"


def tracked_numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """Every measured number of evaluation.json as a tracked metric, by its path: ``test/teacher/psnr_db``."""
    codecs_measured = {**report["models"], "teacher": report["teacher"], "mean_colour": report["mean_colour"]}
    return _numbers(codecs_measured, "test")


def model_numbers(report: Mapping[str, Any], model: str) -> dict[str, float]:
    """The same of one model under names that all models share: ``test/round_trip/psnr_db``. Without single sources."""
    numbers = _numbers(report["models"][model], "test")
    return {path: number for path, number in numbers.items() if "/by_source/" not in path}


def write_metrics(report: Mapping[str, Any], path: Path) -> None:
    """What DVC's tables show: the h100_train model on the test clips, and how far the two trainings are apart."""
    final = report["models"]["h100_train"]
    dvc_metrics.write(
        path,
        {
            "psnr": final["round_trip"]["psnr_db"],
            "ssim": final["round_trip"]["ssim"],
            "psnr_on_teacher_latents": final["on_teacher_latents"]["psnr_db"],
            "delta_db": report["parity"]["max_abs_delta_db"],
            "passed": report["passed"],
        },
    )


def version_tags(report: Mapping[str, Any], model: str, dataset_sha256: str) -> dict[str, str]:
    """By what a model is compared with others in the registry: its score, and on which clips."""
    test_set = report["test_set"]
    return {
        "test_psnr_db": str(report["models"][model]["round_trip"]["psnr_db"]),
        "dataset_sha256": dataset_sha256,
        "test_clips": str(test_set["clips"]),
        "test_frames": str(test_set["frames_compared"]),
    }


def _numbers(nested: Mapping[str, Any], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in nested.items():
        path = f"{prefix}/{key}"
        number = finite(value)
        if isinstance(value, Mapping):
            flat |= _numbers(value, path)
        # Where the worst clip lies is no metric, only its PSNR is.
        elif key in ("clip_id", "first_frame", "frame_stride", "frames", "top", "left", "clips"):
            continue
        elif number is not None:
            flat[path] = number
    return flat


def _decibel(summary: Mapping[str, Any]) -> str:
    return "not a number" if summary["psnr_db"] is None else f"{summary['psnr_db']:.2f} dB"


def _evaluate_model(model: TAEHV, teacher: Teacher, reference: Mapping[str, Any], scorer: Scorer) -> dict[str, Any]:
    alone = scorer.summary(round_trip(model))
    on_latents = scorer.summary(on_teacher_latents(model, teacher))
    student, decoder, best = alone["psnr_db"], on_latents["psnr_db"], reference["psnr_db"]
    return {
        "round_trip": alone,
        "on_teacher_latents": on_latents,
        "gaps_db": {
            "teacher_minus_round_trip": _gap(best, student),
            "teacher_minus_on_teacher_latents": _gap(best, decoder),
            "round_trip_minus_on_teacher_latents": _gap(student, decoder),
        },
    }


def _gap(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or lower is None else upper - lower


def _means(scores: ClipScores) -> dict[str, float | None]:
    return {
        metric.in_evaluation: finite(metric.over_clips(scores[metric.name])) if metric.name in scores else None
        for metric in METRICS
    }


def _describe_clip(record: ClipRecord, psnr: Tensor) -> dict[str, Any]:
    return {
        "psnr_db": finite(float(psnr)),
        "clip_id": record.clip_id,
        "source": record.source,
        "first_frame": record.first_frame,
        "frame_stride": record.frame_stride,
        "frames": record.frames,
        "top": record.top,
        "left": record.left,
    }
