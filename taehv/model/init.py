"""Initial weights. They depend on the seed and the architecture only, never on data or teacher.

``torch_default`` is what PyTorch draws. ``averaging_identity`` starts the network near a plain average pyramid: the
residual branches are switched off (zero-initialised last convolution, Goyal et al. 2017, arXiv:1706.02677, section
5.1), TPool averages and TGrow repeats its frames, and each bias-free convolution between stages copies channel
``o mod n_in`` plus some noise, so that a signal, and its gradient, reaches the other end from the first step on.
The two entry convolutions, which a ReLU follows, do the same: PyTorch's draw leaves a third of the encoder's and a
sixth of the decoder's channels at zero for every input, and what is dead at the entry stays so. Frames are positive
and pass as they are; latents have both signs, so that half of the channels copy them with the sign turned.
docs/architecture.md has the measured differences.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from taehv.model.blocks import MemBlock, TGrow, TPool
from taehv.model.taehv import TAEHV
from taehv.model.variants import Variant

NOISE_FRACTION = 0.3
"""How much of PyTorch's default weights is kept on top of the identity; without any, equal channels stay equal."""


def create_model(
    variant: Variant, width: float, init: Literal["torch_default", "averaging_identity"], seed: int
) -> TAEHV:
    """A freshly initialised model; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TAEHV(variant, width)
    if init == "averaging_identity":
        with torch.no_grad():
            _start_near_averaging_identity(model)
    return model


def _start_near_averaging_identity(model: TAEHV) -> None:
    _set_noisy_identity(*_entry(model.encoder), both_signs=False)
    _set_noisy_identity(*_entry(model.decoder), both_signs=True)
    for layer in [*model.encoder, *model.decoder]:
        if isinstance(layer, MemBlock):
            last = layer.conv[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            last.weight.zero_()
            last.bias.zero_()
        elif isinstance(layer, TPool):
            _set_pooling(layer.conv.weight, layer.stride)
        elif isinstance(layer, TGrow):
            _set_repetition(layer.conv.weight)
        elif isinstance(layer, nn.Conv2d) and layer.bias is None:
            _set_noisy_identity(layer.weight)


def _entry(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weight and bias of the first convolution."""
    first = next(layer for layer in layers if isinstance(layer, nn.Conv2d))
    assert first.bias is not None
    return first.weight, first.bias


def _set_pooling(weight: Tensor, stride: int) -> None:
    """(C, stride * C, 1, 1): each output channel is the mean of its ``stride`` inputs."""
    identity = torch.eye(weight.shape[0])
    weight.copy_((identity.repeat(1, stride) / stride)[:, :, None, None])


def _set_repetition(weight: Tensor) -> None:
    """(stride * C, C, 1, 1): each of the ``stride`` output frames is the input frame."""
    channels = weight.shape[1]
    weight.copy_(torch.eye(channels).repeat(weight.shape[0] // channels, 1)[:, :, None, None])


def _set_noisy_identity(weight: Tensor, bias: Tensor | None = None, *, both_signs: bool = False) -> None:
    """(C_out, C_in, 3, 3): output channel o copies input channel o mod C_in at the centre tap, plus noise.

    With ``both_signs``, every second group of C_in output channels copies them with the sign turned.
    """
    channels_out, channels_in = weight.shape[:2]
    weight.mul_(NOISE_FRACTION)
    outputs = torch.arange(channels_out)
    turned = both_signs & (outputs // channels_in % 2 == 1)
    weight[outputs, outputs % channels_in, 1, 1] += torch.where(turned, -1.0, 1.0)
    if bias is not None:
        bias.zero_()
