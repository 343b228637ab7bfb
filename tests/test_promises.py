"""The tables that say what is promised (docs/reliability.md, docs/ecosystem.md) name tests that exist and are run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from support.project import REPOSITORY

DOCUMENTS = ("docs/reliability.md", "docs/ecosystem.md")
NODE_ID = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)+)`")
WITHOUT = "no test: "
"""How the cell of a promise begins that nothing can test; the reason follows."""


@dataclass(frozen=True)
class Promise:
    """One row of a table whose last column names tests."""

    what: str
    tests: str


def promises(text: str) -> Iterator[Promise]:
    in_table = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            in_table = False
        elif cells[-1].startswith("the test that"):
            in_table = True
        elif in_table and set(line) - set("|-: "):
            yield Promise(cells[0], cells[-1])


PROMISES = [promise for name in DOCUMENTS for promise in promises((REPOSITORY / name).read_text(encoding="utf-8"))]


@cache
def known_tests(file: str) -> dict[str, bool]:
    """The tests of a file (`::name` or `::Class::name`), and whether `make test` leaves out all that they do."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    all_long = any(isinstance(node, ast.Assign) and is_mark(node) for node in tree.body)
    found = {}
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for function in inside:
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                owner = f"::{node.name}" if isinstance(node, ast.ClassDef) else ""
                long = all_long or any(ast.unparse(mark) == "pytest.mark.soak" for mark in function.decorator_list)
                found[f"{owner}::{function.name}"] = long
    return found


def is_mark(assignment: ast.Assign) -> bool:
    """`pytestmark = pytest.mark.soak`, or a list with it."""
    names = [target.id for target in assignment.targets if isinstance(target, ast.Name)]
    return names == ["pytestmark"] and "pytest.mark.soak" in ast.unparse(assignment.value)


def problem_with(promise: Promise) -> str | None:
    """None where the row keeps to the rule at the top of docs/reliability.md."""
    if promise.tests.startswith(WITHOUT):
        return None
    named = [(match[1], match[2]) for match in NODE_ID.finditer(promise.tests)]
    if not named:
        return "names no test: `tests/FILE.py::test_name`, or begins with `no test: ` and the reason"
    absent = [file + test for file, test in named if not (REPOSITORY / file).is_file() or test not in known_tests(file)]
    if absent:
        return f"names what is not there: {', '.join(absent)}"
    if all(known_tests(file)[test] for file, test in named) and "`make soak`" not in promise.tests:
        return "is only tested by `make soak`, and does not say so"
    return None


def test_every_promise_names_a_test_that_exists_and_says_where_it_takes_long() -> None:
    assert len(PROMISES) > 90
    problems = {promise.what: problem for promise in PROMISES if (problem := problem_with(promise))}
    assert problems == {}


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("`tests/test_promises.py::test_what_is_wrong_with_a_row_is_said`; more in `make soak`", None),
        ("no test: power cannot be cut here", None),
        (
            "`tests/evaluation/test_gate.py::TestVerdict::test_gone`",
            "is not there: tests/evaluation/test_gate.py::TestVerdict::test_gone",
        ),
        ("`tests/test_gone.py::test_gone`", "is not there"),
        ("`evaluation/test_gate.py`: words", "names no test"),
        ("", "names no test"),
        (
            "`tests/pipeline/test_soak.py"
            "::test_a_training_killed_at_random_moments_ends_with_the_bits_of_an_uninterrupted_one`",
            "only tested by `make soak`",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_said(cell: str, problem: str | None) -> None:
    (promise,) = promises(f"| a | the test that proves it |\n|---|---|\n| it | {cell} |\n")
    found = problem_with(promise)
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)
