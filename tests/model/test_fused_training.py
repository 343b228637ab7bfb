"""The encoders and decoders that training uses give the reference's numbers and gradients."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from taehv.model import fused_training, fused_training_2d
from taehv.model.init import create_model
from taehv.model.variants import TRAINABLE


def outputs_and_gradients(function: Callable[[Tensor], Tensor], model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """The output, and the gradients of a sum over it that weighs every value differently."""
    inputs = inputs.clone().requires_grad_()
    output = function(inputs)
    model.zero_grad()
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).sum().backward()
    weights = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert inputs.grad is not None
    return [output.detach(), inputs.grad, *weights]


@pytest.mark.parametrize("formulation", [fused_training, fused_training_2d], ids=lambda module: module.__name__)
@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("latent_frames", [1, 2, 3])
def test_decoded_frames_and_gradients_are_the_references(
    formulation: ModuleType, name: str, latent_frames: int
) -> None:
    variant = TRAINABLE[name]
    model = create_model(variant, 0.25, "torch_default", seed=1).double()
    latents = torch.randn(2, latent_frames, variant.latent_channels, 2, 3, dtype=torch.float64)
    ours = outputs_and_gradients(lambda z: formulation.decode(model, z), model.decoder, latents)
    reference = outputs_and_gradients(model.decode, model.decoder, latents)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("formulation", [fused_training, fused_training_2d], ids=lambda module: module.__name__)
@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("frames", [1, 4, 6, 12])
def test_latents_and_gradients_are_the_references(formulation: ModuleType, name: str, frames: int) -> None:
    variant = TRAINABLE[name]
    model = create_model(variant, 0.25, "torch_default", seed=1).double()
    video = torch.rand(2, frames, 3, 2 * variant.spatial_downscale, variant.spatial_downscale, dtype=torch.float64)
    ours = outputs_and_gradients(lambda x: formulation.encode(model, x), model.encoder, video)
    reference = outputs_and_gradients(model.encode, model.encoder, video)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)
