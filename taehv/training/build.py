"""From a RunSpec to the parts of a training: processes, student, optimizers, adversary, data, validation."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from taehv.config.batch_shares import slots_of_rank
from taehv.config.params import BestMetric, Params
from taehv.config.precision import PRECISIONS
from taehv.data.augment import Augmentation
from taehv.data.loader import SlotLoader
from taehv.data.sampler import SlotSampler
from taehv.losses.metrics import HISTORY_METRICS, ClipMetric, MetricError, available_metrics, lpips_backbone_path
from taehv.losses.objective import Objective
from taehv.model import compilation
from taehv.model.checkpoints import read_state_dict
from taehv.model.init import create_model
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS
from taehv.runtime.errors import UserError
from taehv.runtime.hashing import sha256_of_file
from taehv.runtime.launched import forget_inherited
from taehv.runtime.machine import available_cores
from taehv.runtime.paths import compiled_folder, main_repository
from taehv.teachers.base import load_teacher
from taehv.training.adversary import Adversary
from taehv.training.run_spec import RunSpec
from taehv.training.state import TrainingState
from taehv.training.train_step import DTYPES, TrainStep
from taehv.training.validation import Validator


@dataclass(frozen=True)
class Parts:
    state: TrainingState
    loader: SlotLoader
    train_step: TrainStep
    validate: Validator


def start_accelerator(spec: RunSpec) -> Accelerator:
    """The processes of this run, as many as the profile says: a launcher that silently starts fewer is an error.

    What accelerate would take from the environment (mixed precision, DeepSpeed, compilation, gradient accumulation) is
    taken out of it: results depend on params.yaml alone.

    Raises:
        UserError: another number of processes found each other.
    """
    forget_inherited(os.environ, keep_group=True)
    threads = spec.profile.threads or max(1, available_cores() // spec.profile.processes)
    torch.set_num_threads(threads)
    mixed = PRECISIONS[spec.params.active.precision].autocast
    accelerator = Accelerator(cpu=spec.profile.gpus == 0, mixed_precision=mixed)
    if accelerator.device.type == "cuda":
        set_up_gpu()
    expected = spec.profile.processes
    if accelerator.num_processes != expected:
        raise UserError(
            f"{accelerator.num_processes} training process(es) found each other, but profile {spec.profile.name} has "
            f"{expected}; start the stage through its profile's launcher (python -m taehv.launch --profile NAME)"
        )
    return accelerator


def set_up_gpu() -> None:
    """Make equal runs equal, and keep what is compiled.

    cuDNN's fastest gradients add in any order, and float32 convolutions are rounded to TensorFloat-32 by default:
    neither resumes bit for bit, nor is what ``precision: fp32`` says (benchmarks/RESULTS.md: what it costs).
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    compilation.use_cache_folder(compiled_folder())


def assemble(spec: RunSpec, accelerator: Accelerator) -> Parts:
    """Everything that takes part in a training, before its first step."""
    set_seed(spec.params.seed)
    scale = spec.params.active
    dtype = DTYPES[scale.precision]
    student = initial_student(spec.params)
    slots = slots_of_rank(scale.batch.global_, accelerator.num_processes, accelerator.process_index)
    objective = Objective(student, spec.params.loss, scale)
    adversary = None
    if objective.needs_adversary:
        adversary = Adversary(
            scale.seraena,
            student.variant,
            seed=spec.params.seed,
            slots=slots,
            global_batch=scale.batch.global_,
            device=accelerator.device,
            dtype=dtype,
        )
    state = TrainingState(student.to(accelerator.device, dtype), scale.optim, adversary)
    teacher = load_teacher(scale.teacher.name, spec.teacher, student.variant).to(accelerator.device, dtype)
    loader = _loader(spec, slots, accelerator.device)
    train_step = TrainStep(
        accelerator,
        objective,
        state,
        teacher if objective.needs_teacher else None,
        loader,
        global_batch=scale.batch.global_,
        per_device=None if spec.profile.per_device == "auto" else spec.profile.per_device,
        dtype=dtype,
        augmentation=Augmentation.wanted(scale.augment, spec.params.seed),
    )
    metrics = metrics_of_validation(spec.params.validation.best_metric, accelerator.device)
    validation_clips = spec.dataset.split("val", verify_reads=spec.profile.verify_reads)
    validate = Validator(accelerator, validation_clips, spec.profile.validation_batch, dtype, metrics)
    return Parts(state, loader, train_step, validate)


def metrics_of_validation(best_metric: BestMetric, device: torch.device) -> dict[str, ClipMetric]:
    """Those that this machine can measure.

    Raises:
        MetricError: that which is to choose the best model is not one of them.
    """
    metrics = available_metrics(device, HISTORY_METRICS)
    if best_metric not in [metric.in_history for metric in HISTORY_METRICS if metric.name in metrics]:
        needed = f"it needs the backbone's weights at {lpips_backbone_path('alex')}"
        raise MetricError(f"validation.best_metric is {best_metric}, which cannot be measured here: {needed}")
    return metrics


def initial_student(params: Params) -> TAEHV:
    """The student before its first step: fresh from the seed, or with the weights that the parameters name.

    Raises:
        UserError: the named file is missing, is another one than the parameters say, does not fit the model, or holds
            weights that are not finite.
    """
    model = params.active.model
    student = create_model(VARIANTS[model.variant], model.width, model.init, params.seed)
    if model.weights is None:
        return student
    path = main_repository() / model.weights.path
    weights = read_state_dict(path)
    found = sha256_of_file(path)
    if found != model.weights.sha256:
        raise UserError(
            f"{path} is not the file that model.weights names: its sha256 is {found}, params.yaml says "
            f"{model.weights.sha256}"
        )
    try:
        student.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit {model.variant} at width {model.width:g}: {error}") from error
    return student


def _loader(spec: RunSpec, slots: range, device: torch.device) -> SlotLoader:
    data = spec.params.active.data
    clips = spec.dataset.split("train", verify_reads=spec.profile.verify_reads)
    sampler = SlotSampler(
        clips.columns(),
        seed=spec.params.seed,
        global_batch=spec.params.active.batch.global_,
        height=data.height,
        width=data.width,
        frames=data.frames,
        horizontal_flip=data.horizontal_flip,
        strides=data.crop_strides,
        block_shards=data.store.shuffle_block_shards,
    )
    return SlotLoader(clips, sampler, slots, device)
