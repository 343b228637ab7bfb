"""The SSIM that a GPU's training step uses is the one of the metric."""

from __future__ import annotations

import pytest
import torch

from taehv.losses import metrics, perceptual


@pytest.mark.parametrize("height", [11, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_gives_the_metrics_numbers_and_gradients(dtype: torch.dtype, height: int) -> None:
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(2, 4, 3, height, 24, generator=generator, dtype=dtype)
    noise = torch.randn(2, 3, 3, height, 24, generator=generator, dtype=dtype)
    found = []
    for similarity in (metrics.structural_similarity, perceptual.fused_structural_similarity):
        decoded = (frames[:, :3] + 0.2 * noise).requires_grad_()
        values = similarity(decoded, frames)
        (gradient,) = torch.autograd.grad(values.sum(), decoded)
        found.append((values.detach(), gradient))
    (values, gradient), (ours, our_gradient) = found
    torch.testing.assert_close(ours, values, rtol=0, atol=1e-6)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_equal_images_have_similarity_one() -> None:
    frames = torch.rand(1, 2, 3, 16, 16)
    torch.testing.assert_close(perceptual.fused_structural_similarity(frames, frames), torch.ones(1))
