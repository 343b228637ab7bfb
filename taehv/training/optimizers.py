"""Which optimizer moves which parameters, at which rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taehv.config.params import Optim
from taehv.training.muon import Muon
from taehv.training.schedule import learning_rate_fraction


@dataclass(frozen=True)
class _Part:
    optimizer: torch.optim.Optimizer
    peak_rate: float


class Optimizers:
    """One or two optimizers that step together, each at its own peak rate under the same schedule.

    ``adamw``: AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for everything.
    ``muon``: Muon for the convolution filters, AdamW for the biases.
    """

    def __init__(self, model: nn.Module, optim: Optim) -> None:
        filters = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        biases = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        self._optim = optim
        self._parts: dict[str, _Part] = {}
        if optim.muon_lr is not None:
            assert optim.muon_momentum is not None
            muon = Muon(filters, lr=optim.muon_lr, momentum=optim.muon_momentum, weight_decay=optim.weight_decay)
            self._parts["muon"] = _Part(muon, optim.muon_lr)
        groups = [{"params": biases, "weight_decay": 0.0}]
        if optim.muon_lr is None:
            groups.append({"params": filters, "weight_decay": optim.weight_decay})
        adamw = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
        self._parts["adamw"] = _Part(adamw, optim.lr)

    def step(self, step: int) -> None:
        """Update number ``step`` (the first is 1) of all parameters."""
        fraction = learning_rate_fraction(self._optim, step)
        for part in self._parts.values():
            for group in part.optimizer.param_groups:
                group["lr"] = part.peak_rate * fraction
            part.optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts.values():
            part.optimizer.zero_grad(set_to_none=True)

    def learning_rates(self, step: int) -> dict[str, float]:
        """The rate of update ``step`` by optimizer name."""
        fraction = learning_rate_fraction(self._optim, step)
        return {name: part.peak_rate * fraction for name, part in self._parts.items()}

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that the optimizers remember, as ``<optimizer>.<parameter index>.<name>``.

        Rates, betas and decay are not in it: they come from the parameters, never from a checkpoint.
        """
        return {
            f"{name}.{index}.{key}": value
            for name, part in self._parts.items()
            for index, values in part.optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``state_tensors`` gave.

        Raises:
            ValueError: the tensors are of other optimizers.
        """
        states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in self._parts}
        for key, value in tensors.items():
            name, index, entry = key.split(".", 2)
            if name not in states:
                raise ValueError(f"the checkpoint holds state of {name}, this run uses {', '.join(self._parts)}")
            states[name].setdefault(int(index), {})[entry] = value
        for name, part in self._parts.items():
            groups = part.optimizer.state_dict()["param_groups"]
            part.optimizer.load_state_dict({"state": states[name], "param_groups": groups})
