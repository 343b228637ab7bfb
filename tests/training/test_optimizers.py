"""Muon orthogonalises the filters' updates; AdamW moves the biases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taehv.config.params import Optim, load_params
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.training.muon import Muon, orthogonalise
from taehv.training.optimizers import Optimizers

OPTIM = load_params(Path(__file__).parents[2] / "params.yaml").active.optim
ADAMW = OPTIM.model_copy(update={"name": "adamw", "muon_lr": None, "muon_momentum": None})


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 64, 16), (1, 8, 8)])
def test_orthogonalised_matrices_have_singular_values_near_1(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(matrices))
    assert singular.max() < 1.3
    assert singular[:, : min(shape[1:]) // 2].min() > 0.6


def test_a_matrix_keeps_its_singular_vectors() -> None:
    matrix = torch.randn(1, 6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix[0], full_matrices=False)
    diagonal = u.T @ orthogonalise(matrix)[0] @ vh.T
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), rtol=0, atol=1e-9)


def test_filters_of_equal_shape_do_not_influence_each_other() -> None:
    gradients = [torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    together = [torch.zeros(8, 4, 3, 3, requires_grad=True) for _ in range(2)]
    alone = torch.zeros(8, 4, 3, 3, requires_grad=True)
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient.clone()
    alone.grad = gradients[1].clone()
    for parameters in (together, [alone]):
        Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.0).step()
    torch.testing.assert_close(together[1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optim", [OPTIM, ADAMW], ids=["muon", "adamw"])
def test_every_parameter_moves(optim: Optim) -> None:
    model = create_model(VARIANTS["hunyuan_video"], 0.5, "torch_default", seed=0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizers = Optimizers(model, optim)
    frames = torch.rand(1, 8, 3, 16, 16)
    (model.decode(model.encode(frames)) - frames[:, :5]).square().mean().backward()
    optimizers.step(10)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_state_of_another_optimizer_is_refused() -> None:
    model = create_model(VARIANTS["hunyuan_video"], 1 / 16, "torch_default", seed=0)
    with pytest.raises(ValueError, match="muon"):
        Optimizers(model, ADAMW).load_state_tensors({"muon.0.momentum": torch.zeros(1)})
