"""Who may import whom, and what a bare machine needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "taehv"

MODEL = ("model",)
INPUTS = ("data", "losses", "teachers", "metrics")
JUDGEMENTS = ("gate", "gate_checks", "diagnosis", "parity", "evaluation", "codecs", "records")
ABOVE_TRAINING = (*JUDGEMENTS, "tracking", "report", "launch", "doctor", "cli", "commands")

FORBIDDEN: dict[tuple[str, ...], tuple[str, ...]] = {
    MODEL: (*INPUTS, "training", *ABOVE_TRAINING),
    INPUTS: ("training", *ABOVE_TRAINING),
    ("training",): ABOVE_TRAINING,
    ("gate", "parity", "evaluation", "report"): ("tracking", "launch", "doctor", "cli", "commands"),
    ("tracking", "launch"): ("doctor", "cli", "commands"),
    ("doctor",): ("cli", "commands"),
}
"""Arrows go one way: stages -> doctor -> tracking, launch, report, judgements -> training -> inputs -> model."""

NOT_ON_A_TRAINING_BOX = (
    "av", "dvc", "deepspeed", "diffusers", "lpips", "matplotlib", "mlflow", "onnx", "onnxruntime", "onnxscript",
    "pandas", "pyarrow", "pytorch_msssim", "skvideo", "tensorboard", "torchvision", "transformers",
)  # fmt: skip


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def sources(part: str) -> list[Path]:
    """The files of a sub-package, or the module of that name."""
    found = sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    assert all(path.is_file() for path in found), f"{part} is gone; change this test"
    return found


def belongs_to(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_only_tracking_and_the_served_model_import_mlflow() -> None:
    files = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")]
    using = {path for path in files if any(belongs_to(module, "mlflow") for module in imported(path))}
    assert PACKAGE / "mlflow_model.py" in using
    assert {path.parent for path in using - {PACKAGE / "mlflow_model.py"}} == {PACKAGE / "tracking"}


def test_nothing_imports_dvc() -> None:
    files = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")]
    assert not [path for path in files if any(belongs_to(module, "dvc") for module in imported(path))]


@pytest.mark.parametrize(("lower", "upper"), FORBIDDEN.items(), ids=lambda names: "+".join(names)[:40])
def test_arrows_go_one_way(lower: tuple[str, ...], upper: tuple[str, ...]) -> None:
    against = [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for part in lower
        for path in sources(part)
        for module in imported(path)
        for higher in (*(f"taehv.{name}" for name in upper), "stages")
        if belongs_to(module, higher)
    ]
    assert against == []


def test_training_needs_only_torch_numpy_and_accelerate() -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_ON_A_TRAINING_BOX!r}))\n"
        "import taehv.training.loop, taehv.model.taehv, taehv.losses.objective, taehv.data.sampler"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_the_model_needs_only_torch_numpy_and_safetensors() -> None:
    absent = (*NOT_ON_A_TRAINING_BOX, "accelerate", "tqdm", "yaml")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import taehv.model.folded, taehv.model.streaming, taehv.model.checkpoints, taehv.model.diffusers_adapter, "
        "taehv.model.export, taehv.model.serving"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_variants_need_no_torch() -> None:
    program = "import sys; sys.modules['torch'] = None\nimport taehv.model.variants"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
