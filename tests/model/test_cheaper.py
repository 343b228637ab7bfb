"""The decoder that training uses gives the reference's numbers and gradients."""

from __future__ import annotations

import pytest
import torch

from taehv.model import cheaper
from taehv.model.init import create_model
from taehv.model.variants import TRAINABLE


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("latent_frames", [1, 2, 3])
def test_frames_and_gradients_are_the_references(name: str, latent_frames: int) -> None:
    variant = TRAINABLE[name]
    model = create_model(variant, 0.25, "torch_default", seed=1).double()
    latents = torch.randn(2, latent_frames, variant.latent_channels, 2, 3, dtype=torch.float64)
    gradients = []
    outputs = []
    for decode in (model.decode, lambda z: cheaper.decode(model, z)):
        inputs = latents.clone().requires_grad_()
        output = decode(inputs)
        model.zero_grad()
        (output * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)).sum().backward()
        weights = [parameter.grad.flatten() for parameter in model.decoder.parameters() if parameter.grad is not None]
        assert inputs.grad is not None
        gradients.append(torch.cat([inputs.grad.flatten(), *weights]))
        outputs.append(output)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)
