"""Every path of the model, and the gradients of a training step, against the plain model in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.on_gpu.session import Session, relative_error
from taehv.config.params import Distillation, LossWeights, Seraena, load_params
from taehv.losses.objective import Objective, Outputs, weighted_sum
from taehv.model import compilation, formulations
from taehv.model.autoencoder import VideoAutoencoder
from taehv.model.formulations import RECIPES
from taehv.model.fused_inference import FoldedTAEHV
from taehv.model.init import create_model
from taehv.model.streaming import StreamingDecoder, StreamingEncoder
from taehv.model.variants import VARIANTS
from taehv.training.adversary import Adversary, Shown

REPOSITORY = Path(__file__).parents[2]
LIMITS = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Largest relative error allowed: a few hundred roundings of the number type."""
GRADIENT_LIMITS = {"fp32": 1e-4, "bf16": 3e-2}


def run(session: Session) -> None:
    torch.backends.cudnn.allow_tf32 = False
    for name in ("hunyuan_video",) if session.rehearsal else VARIANTS:
        width = 1.0 if name == "hunyuan_video" and not session.rehearsal else 0.25
        for dtype in LIMITS:
            session.case(
                f"codec {name} {str(dtype).removeprefix('torch.')}", partial(codec, session, name, width, dtype)
            )
    if not session.rehearsal:
        session.case("codec hunyuan_video float32 as TF32", partial(with_tf32, session))
    for precision in GRADIENT_LIMITS:
        for how in ("plain", "planes", "compiled"):
            if not (session.rehearsal and how == "compiled"):
                session.case(f"gradients {precision} {how}", partial(gradients, session, precision, how))


def codec(session: Session, name: str, width: float, dtype: torch.dtype) -> dict[str, Any]:
    torch.manual_seed(0)
    truth = create_model(VARIANTS[name], width, "torch_default", seed=0).eval().to(session.device).double()
    variant, size = truth.variant, truth.variant.spatial_downscale
    rows, columns = (1, 2) if session.rehearsal else (96 // size, 160 // size)
    video = torch.rand(1, 9 if session.rehearsal else 18, 3, rows * size, columns * size, device=session.device)
    with torch.inference_mode():
        latents = truth.encode(video.double())
        frames = truth.decode(latents)
    plain = create_model(VARIANTS[name], width, "torch_default", seed=0).eval().to(session.device)
    folded = FoldedTAEHV(plain, RECIPES["cuda"]).to(dtype)
    plain = plain.to(dtype)
    video, given = video.to(dtype), latents.to(dtype)
    found: dict[str, float] = {}
    with torch.inference_mode():
        for label, model in (("plain", plain), ("folded", folded)):
            found[f"{label} encode"] = relative_error(model.encode(video), latents)
            found[f"{label} decode"] = relative_error(model.decode(given), frames)
        found["chunks encode"] = relative_error(folded.encode(video, chunk=8), latents)
        found["chunks decode"] = relative_error(folded.decode(given, chunk=2), frames)
        for turn in (1, 2):  # the second stream replays what the first one recorded
            encoded, decoded = streamed(folded, video, given)
            found[f"stream {turn} encode"] = relative_error(encoded, latents)
            found[f"stream {turn} decode"] = relative_error(decoded, frames)
    allowed = max(LIMITS[dtype], 1.5 * found["plain encode"], 1.5 * found["plain decode"])
    wrong = {label: error for label, error in found.items() if not error <= allowed}
    if wrong:
        raise AssertionError(f"{variant.name}: above {allowed}: {wrong}; all: {found}")
    return found


def streamed(model: VideoAutoencoder, video: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Frame by frame, and latent by latent."""
    encoder, decoder = StreamingEncoder(model), StreamingDecoder(model, latents.shape[1])
    encoded = [encoder.push(video[:, i : i + 1]) for i in range(video.shape[1])]
    decoded = [decoder.push(latents[:, i : i + 1]) for i in range(latents.shape[1])]
    return torch.cat([*encoded, encoder.flush()], 1), torch.cat([*decoded, decoder.flush()], 1)


def with_tf32(session: Session) -> dict[str, Any]:
    """What TensorFloat-32, PyTorch's default for convolutions, makes of float32."""
    torch.backends.cudnn.allow_tf32 = True
    try:
        with mock.patch.dict(LIMITS, {torch.float32: 1e-2}):
            return codec(session, "hunyuan_video", 1.0, torch.float32)
    finally:
        torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def formulated(device: torch.device, how: str) -> Iterator[None]:
    """Inside, a device trains in another formulation: plain, planes or compiled."""
    chosen = {
        "plain": formulations.Training("volumes", False, "library", "as defined"),
        "planes": formulations.Training("planes", False, "shifted sums", "pooled first"),
        "compiled": formulations.Training("planes", True, "shifted sums", "pooled first"),
    }[how]
    with mock.patch.dict(formulations.TRAINING, {device.type: chosen}), contextlib.ExitStack() as stack:
        if how == "plain":
            stack.enter_context(
                mock.patch("taehv.model.fused_training.encode", lambda model, frames: model.encode(frames))
            )
            stack.enter_context(mock.patch("taehv.model.fused_training.decode", lambda model, z: model.decode(z)))
        yield


def gradients(session: Session, precision: str, how: str) -> dict[str, Any]:
    """Of all five terms, and of the discriminator, at full width."""
    truth = step_gradients(session, torch.float64, "plain", autocast=False)
    found = step_gradients(session, torch.float32, how, autocast=precision == "bf16")
    errors = {name: relative_error(value, truth[name]) for name, value in found.items()}
    # A correction is divided by its own spread, so its error is not small against the rounding of a step in 16 bits.
    limits = {"seraena": 0.3, "discriminator": 0.1} if precision == "bf16" else {"seraena": 1e-2, "discriminator": 1e-3}
    wrong = {name: e for name, e in errors.items() if not e <= limits.get(name, GRADIENT_LIMITS[precision])}
    if wrong:
        raise AssertionError(f"{wrong}; all: {errors}")
    return errors


def step_gradients(session: Session, dtype: torch.dtype, how: str, *, autocast: bool) -> Mapping[str, Tensor]:
    """The gradient of each term by itself."""
    device, width = session.device, 1 / 8 if session.rehearsal else 1.0
    clips, height, columns = (1, 16, 24) if session.rehearsal else (2, 64, 96)
    variant = VARIANTS["hunyuan_video"]
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(clips, 12, 3, height, columns, generator=generator, dtype=torch.float64).to(device, dtype)
    teacher = torch.randn(clips, 3, 16, height // 8, columns // 8, generator=generator, dtype=torch.float64)
    params = Seraena(
        start_step=1, ramp_steps=0, group_frames=3, width=8 if session.rehearsal else 64, lr=1e-3, replay_mib=64
    )
    weights = LossWeights(recon=10.0, encoder=0.1, decoder=0.1, perceptual=0.1, seraena=0.1)
    with formulated(device, how):
        model = create_model(variant, width, "averaging_identity", seed=0).to(device, dtype)
        scale = load_params(REPOSITORY / "params.yaml").active.model_copy(
            update={"distillation": Distillation(boost=1.0, until_step=0, end_step=1), "seraena": params}
        )
        objective = Objective(model, weights, scale)
        adversary = Adversary(
            params, variant, seed=0, slots=range(clips), global_batch=clips, device=device, dtype=dtype
        )
        found = {}
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast), contextlib.ExitStack() as stack:
            if how == "compiled":
                terms, shown = terms_and_shown(objective, adversary, frames, teacher.to(device, dtype))
                total = weighted_sum(terms, objective.weights_at(1))
                found["all terms"] = gradient(model, total, retain=False)
            else:
                stack.enter_context(compilation.switched_off())
                terms, shown = terms_and_shown(objective, adversary, frames, teacher.to(device, dtype))
                found["all terms"] = gradient(model, weighted_sum(terms, objective.weights_at(1)), retain=True)
                for term, value in terms.items():
                    found[term] = gradient(model, value.sum(), retain=True)
            adversary.accumulate(1, range(clips), *shown)
        parameters = adversary._discriminator.parameters()
        found["discriminator"] = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return found


def terms_and_shown(
    objective: Objective, adversary: Adversary, frames: Tensor, teacher: Tensor
) -> tuple[Mapping[str, Tensor], Shown]:
    """All terms, and what the adversary was shown."""
    outputs: Outputs = objective(frames, teacher, keep_decoded=True)
    value, shown = adversary.term(outputs, frames)
    return outputs.terms | {"seraena": value}, shown


def gradient(model: torch.nn.Module, loss: Tensor, *, retain: bool) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=retain, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).detach()
