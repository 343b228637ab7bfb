"""Reading and writing the weights of a model.

A checkpoint file is a flat state dict with the published keys, as ``.pth`` or ``.safetensors``. Keys go in and out
untouched, reading never executes pickled code, and what a file is, is found from its keys and shapes. A model folder,
as training writes it, holds ``model.safetensors`` and ``model_info.json``, which says what it is.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from taehv.model.taehv import DECODER_CHANNELS, TAEHV
from taehv.model.variants import LARGEST_WIDTH, VARIANTS, Variant
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
_NAMED = 5
"""So many tensors are named in an error; a damaged file has the same problem in all of them."""
StateDict = dict[str, Tensor]
SUFFIXES = (".pth", ".safetensors")
_MALFORMED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
"""What torch's and Python's readers raise on files that are not what they seem, besides ValueError and RuntimeError."""
MOST_GROWN_FRAMES = 2
"""Frames that a TGrow of any published variant makes of one."""


class WeightsError(UserError):
    """A checkpoint that cannot be read, written, or used as this variant."""


def check_weights(weights: Mapping[str, Tensor], what: str, error: type[UserError] = UserError) -> None:
    """Refuse weights that are no weights.

    Args:
        weights: tensors by name.
        what: names them in the error.
        error: the class of the error.

    Raises:
        UserError: of that class: tensors are sparse, quantised, without data, or of another type than floating point,
            or hold NaN or infinity. The first ones are named.
    """
    problems = [(name, problem) for name, tensor in weights.items() if (problem := _problem(tensor))]
    if problems:
        listed = "".join(f"\n  {name}: {problem}" for name, problem in problems[:_NAMED])
        more = f"\n  and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise error(f"{what} holds tensors that are no usable weights; get the file again:{listed}{more}")


def _problem(tensor: Tensor) -> str | None:
    if problem := _layout_problem(tensor):
        return problem
    values = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # isfinite does not know 8-bit numbers
    wrong = int((~torch.isfinite(values)).sum())
    return f"{wrong:,} of {tensor.numel():,} numbers are NaN or infinite" if wrong else None


def _layout_problem(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided:
        return f"it is stored as {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_meta:
        return "it has a shape and no numbers (meta)"
    if tensor.is_quantized or tensor.dtype not in FLOATS:
        return f"its numbers are {str(tensor.dtype).removeprefix('torch.')}, weights are floating-point numbers"
    return "it is a negated view" if tensor.is_neg() else None


def read_state_dict(path: Path) -> StateDict:
    """All tensors of a file, by key, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged or no regular file, has another suffix, holds anything but tensors
            by name, or tensors that are no weights (integers, NaN, sparse, larger than the file).
    """
    _check_suffix(path)
    regular_file(path, WeightsError)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_pickled(path)
    except (OSError, ValueError, EOFError, RuntimeError, SafetensorError, *_MALFORMED) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise WeightsError(f"{path} cannot be read as {path.suffix[1:]} weights: {reason}") from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{path} is not a state dict: it must hold nothing but tensors by name")
    _check_tensors(content, path)
    return dict(content)


def write_state_dict(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors under their keys; a file at ``path`` is replaced only when the new one is whole.

    Raises:
        WeightsError: the suffix is unknown, or the file cannot be written.
    """
    _check_suffix(path)
    # Own memory for each: safetensors refuses shared tensors, and a view would drag its whole storage into a .pth.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    try:
        with atomic_files.replacing(path) as partial:
            if path.suffix == ".safetensors":
                save_file(own, partial)
            else:
                # In memory first: torch's own file writer says "unexpected pos" on a full disk.
                torch.save(own, whole := io.BytesIO())
                partial.write_bytes(whole.getbuffer())
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror}") from error


def load_checkpoint(path: Path, variant: Variant | None = None) -> TAEHV:
    """The model of a checkpoint file, in evaluation mode on the CPU.

    Args:
        path: a ``.pth`` or ``.safetensors`` file.
        variant: what it is, perhaps with a cheaper ``preview`` decoder; None finds it from keys and shapes.

    Raises:
        WeightsError: the file cannot be read; no variant or several fit; or keys are missing, unexpected or
            misshapen, which are all listed.
    """
    return model_of(read_state_dict(path), variant, str(path))


def load_model(folder: Path) -> tuple[TAEHV, dict[str, Any]]:
    """The model of a folder, in evaluation mode on the CPU, and its info.

    Raises:
        WeightsError: a file is missing or damaged, the info names no variant or width that there is, or the weights are
            no finite floating-point numbers or do not fit them (keys are listed).
    """
    try:
        info = json.loads(regular_file(folder / "model_info.json").read_text(encoding="utf-8"))
        variant, width = VARIANTS[info["variant"]], float(info["width"])
        if not 0 < width <= LARGEST_WIDTH:
            raise ValueError(f"the width must be above 0 and at most {LARGEST_WIDTH:g}, got {width}")
        return _fitted(read_state_dict(folder / "model.safetensors"), variant, width, "it"), info
    except UserError as error:
        raise WeightsError(f"no usable model in {folder}: {error}") from error
    except (OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"no usable model in {folder}: {type(error).__name__}: {error}") from error


def model_of(weights: StateDict, variant: Variant | None, what: str) -> TAEHV:
    """As ``load_checkpoint``, for weights that are in memory already; ``what`` names them in errors."""
    return _fitted(weights, find_variant(weights, what) if variant is None else variant, width_of(weights), what)


def _fitted(weights: StateDict, variant: Variant, width: float, what: str) -> TAEHV:
    fit = fit_to(weights, variant, width)
    if not fit.is_exact:
        raise WeightsError(f"{what} does not fit {variant.name} at width {width:g}:\n{fit.describe()}")
    with torch.device("meta"):
        model = TAEHV(variant, width)
    wanted = model.state_dict()
    # Where TGrow carries more frames than used, the last ones are the ones that count.
    used = {name: tensor[-len(wanted[name]) :] for name, tensor in weights.items()}
    model = model.to_empty(device="cpu")
    model.load_state_dict(used, strict=True)
    return model.eval()


def find_variant(weights: Mapping[str, Tensor], what: str) -> Variant:
    """The only published variant that these keys and shapes fit.

    Raises:
        WeightsError: none fits (the closest one's differences are listed), or several do (they are named).
    """
    candidates = find_candidates(weights, what)
    if len(candidates) > 1:
        names = ", ".join(variant.name for variant in candidates)
        raise WeightsError(f"{what} fits several variants, which have equal keys and shapes; choose one of: {names}")
    return candidates[0]


def find_candidates(weights: Mapping[str, Tensor], what: str) -> list[Variant]:
    """All published variants that these keys and shapes fit, at least one.

    Raises:
        WeightsError: none fits; the closest one's differences are listed.
    """
    width = width_of(weights)
    fits = {variant: fit_to(weights, variant, width) for variant in VARIANTS.values()}
    candidates = [variant for variant, fit in fits.items() if fit.is_exact]
    if not candidates:
        closest = min(fits, key=lambda variant: fits[variant].differences)
        raise WeightsError(
            f"{what} fits no known variant. The closest is {closest.name}, from which it differs:\n"
            f"{fits[closest].describe()}"
        )
    return candidates


def width_of(weights: Mapping[str, Tensor]) -> float:
    """How wide the network is, as a multiple of the published sizes; 1 where the decoder's entry does not say it."""
    for key, kind in (("decoder.1.weight", "base"), ("decoder.0.weight", "super")):
        if key in weights and weights[key].ndim:
            width = weights[key].shape[0] / DECODER_CHANNELS[kind][0]
            return width if 0 < width <= LARGEST_WIDTH else 1.0
    return 1.0


@dataclass(frozen=True)
class Fit:
    """How keys and shapes compare with a variant's."""

    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def differences(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    @property
    def is_exact(self) -> bool:
        return self.differences == 0

    def describe(self) -> str:
        """One line per difference."""
        lines = [f"  missing: {name}" for name in self.missing]
        lines += [f"  unexpected: {name}" for name in self.unexpected]
        return "\n".join(lines + [f"  misshapen: {name}" for name in self.misshapen])


def fit_to(weights: Mapping[str, Tensor], variant: Variant, width: float) -> Fit:
    """Compare with the keys and shapes of ``variant``. TGrow weights may carry more frames than the variant uses."""
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in TAEHV(variant, width).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    return Fit(
        missing=[name for name in wanted if name not in found],
        unexpected=[name for name in found if name not in wanted],
        misshapen=[
            f"{name} is {found[name]}, wanted {shape}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape and not _has_more_frames(name, found[name], shape)
        ],
    )


def _load_pickled(path: Path) -> object:
    """A ``.pth`` file, without executing what is in it and without unpacking more than the file's own size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        # torch.save never compresses. A compressed archive of a few MB can unpack to terabytes.
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("it would unpack to more than its own size, which torch.save never writes")
    return torch.load(path, "cpu", weights_only=True)


def _check_tensors(weights: StateDict, path: Path) -> None:
    """Cheap questions first: a small file can hold a view of any shape, which takes memory once it is copied."""
    for name, tensor in weights.items():
        if problem := _layout_problem(tensor):
            raise WeightsError(f"{path} holds a tensor that is no usable weight: {name}: {problem}")
    # Views that repeat themselves are small in a file, and take all their memory once each tensor has its own.
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    there = path.stat().st_size
    if claimed > there:
        raise WeightsError(
            f"{path} is no checkpoint: its tensors claim {claimed:,} bytes of numbers, and the file has {there:,}"
        )
    check_weights(weights, str(path), WeightsError)


def _has_more_frames(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a TGrow weight (stride * C, C, 1, 1) makes a multiple of C more rows than wanted."""
    is_grow = name.startswith("decoder.") and name.endswith(".conv.weight") and name.count(".") == 3
    frames_there, rest = divmod(found[0], wanted[1]) if is_grow and found[1:] == wanted[1:] else (0, 0)
    return rest == 0 and wanted[0] < found[0] and frames_there <= MOST_GROWN_FRAMES


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path} is neither {' nor '.join(SUFFIXES)}")
