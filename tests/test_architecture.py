"""Who may import whom, and what a bare machine needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.project import REPOSITORY

PACKAGE = REPOSITORY / "taehv"

LEVELS = (
    ("runtime",),
    ("model",),
    ("teachers",),
    ("config",),
    ("losses", "data", "launch"),
    ("training",),
    ("evaluation",),
    ("tracking",),
    ("doctor",),
    ("commands",),
    ("cli",),
)
"""From the bottom up. A folder imports from levels below its own; of those on one level, none knows another."""

NOT_ON_A_TRAINING_BOX = (
    "av", "dvc", "deepspeed", "diffusers", "ijson", "lpips", "matplotlib", "mlflow", "onnx", "onnxruntime",
    "onnxscript", "pandas", "pyarrow", "pytorch_msssim", "skvideo", "tensorboard", "torchvision", "transformers",
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


def folder_of(path: Path) -> str:
    """The folder of ``taehv/`` that a file is in, or the module's own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def belongs_to(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_only_tracking_imports_mlflow() -> None:
    files = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")]
    using = {path for path in files if any(belongs_to(module, "mlflow") for module in imported(path))}
    assert PACKAGE / "tracking/served_model.py" in using
    assert {folder_of(path) if path.is_relative_to(PACKAGE) else "stages" for path in using} == {"tracking"}


def test_nothing_imports_dvc() -> None:
    files = [*PACKAGE.rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")]
    assert not [path for path in files if any(belongs_to(module, "dvc") for module in imported(path))]


def test_the_table_of_places_names_files_that_exist() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*\? \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 20
    named = [name for row in rows for name in re.findall(r"`([\w/.]+)`", row)]
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_the_top_of_the_package_holds_the_command_line_alone() -> None:
    folders = {name for level in LEVELS for name in level}
    assert {folder_of(path) for path in PACKAGE.rglob("*.py")} == folders | {"__init__"}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize(("number", "level"), list(enumerate(LEVELS)), ids=str)
def test_imports_go_down(number: int, level: tuple[str, ...]) -> None:
    above = [name for higher in LEVELS[number:] for name in higher]
    against = [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in PACKAGE.rglob("*.py")
        if folder_of(path) in level
        for module in imported(path)
        for higher in (*(f"taehv.{name}" for name in above if name != folder_of(path)), "stages")
        if belongs_to(module, higher)
    ]
    assert against == []


def test_no_files_import_each_other_in_a_circle_not_even_for_types() -> None:
    modules = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph = {
        module: {name for name in imported(path) if name in modules and name != module}
        for module, path in modules.items()
    }
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def test_training_needs_only_torch_numpy_accelerate_and_pydantic() -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_ON_A_TRAINING_BOX!r}))\n"
        "import taehv.training.trainer, taehv.model.taehv, taehv.losses.objective, taehv.data.sampler"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_the_model_needs_only_torch_numpy_and_safetensors() -> None:
    absent = (*NOT_ON_A_TRAINING_BOX, "accelerate", "tqdm", "yaml")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import taehv.model.fused_inference, taehv.model.streaming, taehv.model.checkpoints, "
        "taehv.model.diffusers_adapter, taehv.model.export, taehv.model.serving"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_variants_and_configuration_need_no_torch() -> None:
    program = "import sys; sys.modules['torch'] = None\nimport taehv.model.variants, taehv.config.profiles"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
