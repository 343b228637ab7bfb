"""What cannot be compiled runs as it is, and says why; memory that ran out stays what it is."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from taehv.model import compilation
from taehv.model.compilation import Compiled


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def compiled_by(monkeypatch: pytest.MonkeyPatch, backend: Callable[..., object]) -> Compiled[[Tensor], Tensor]:
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile_with(function, backend=backend, **how))
    torch._dynamo.reset()
    return Compiled(doubled, "doubling")


def test_a_machine_that_cannot_compile_is_told_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compilation, "why_not", lambda: "there is no C compiler: install gcc")
    function = Compiled(doubled, "doubling")
    assert function(torch.ones(2)).tolist() == function(torch.ones(2)).tolist() == [2, 2]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "doubling runs without torch.compile, at about 0.6 times the speed: there is no C compiler: install gcc"
    ]


def test_a_compiler_that_fails_is_replaced_and_quoted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("ptxas is missing")

    function = compiled_by(monkeypatch, broken)
    assert function(torch.ones(2)).tolist() == [2, 2]
    assert "ptxas is missing" in caplog.text


def test_memory_that_runs_out_while_compiling_is_not_taken_for_a_missing_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hungry(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compiled_by(monkeypatch, hungry)(torch.ones(2))


def test_it_compiles_once_per_shape_and_not_at_all_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def counting(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    function = compiled_by(monkeypatch, counting)
    with compilation.switched_off():
        function(torch.ones(4))
    assert len(graphs) == 0
    for size in (2, 2, 3, 2):
        assert function(torch.ones(size)).tolist() == [2] * size
    assert len(graphs) == 2
