"""The examples in docstrings give what they show."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def runs(text: str) -> bool:
    """Whether a module has examples, and all packages that they import are installed, as for the files of tests."""
    return ">>> " in text and all(map(importlib.util.find_spec, re.findall(r">>> import (\w+)", text)))


MODULES = [path for path in sorted(ROOT.glob("pndm_solvers/**/*.py")) if runs(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_examples_of_a_module(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
