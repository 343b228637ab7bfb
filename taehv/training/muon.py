"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

Differences from ``torch.optim.Muon``, and why there is one here: convolution filters are taken as matrices
(C_out, C_in * kernel); the Newton-Schulz iteration runs in the parameter's own precision (in bfloat16, rounding alone
would make equal runs on different numbers of processes drift apart); filters of equal shape go through it together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Chosen by Jordan et al. for the steepest slope at 0; the result's singular values lie in about 0.7 .. 1.2."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay. All parameters must have at least two dimensions."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        assert closure is None, "the training loop computes the gradient"
        for group in self.param_groups:
            for filters in _by_matrix_shape(group["params"]):
                self._update(filters, group)
        return None

    def _update(self, filters: list[Tensor], group: dict[str, Any]) -> None:
        rows, columns = filters[0].shape[0], filters[0][0].numel()
        momenta = torch.stack([self._next_momentum(parameter, group["momentum"]) for parameter in filters])
        directions = orthogonalise(momenta.reshape(-1, rows, columns))
        # Taller matrices get longer steps, so that outputs change equally fast (Jordan's original scaling).
        scale = group["lr"] * max(1.0, rows / columns) ** 0.5
        for parameter, direction in zip(filters, directions, strict=True):
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
            parameter.add_(direction.reshape(parameter.shape), alpha=-scale)

    def _next_momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1.0 - momentum)
        return torch.lerp(parameter.grad, state["momentum"], momentum)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (B, m, n) with their singular values moved towards 1: five Newton-Schulz steps."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.transpose(1, 2)


def _by_matrix_shape(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            groups.setdefault(parameter.shape, []).append(parameter)
    return list(groups.values())
