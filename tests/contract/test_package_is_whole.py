"""What holds of the package as a whole: its imports, its docstrings, its README."""

import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import pndm_solvers

ROOT = Path(__file__).parents[1]
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(pndm_solvers.__path__, "pndm_solvers.")
    if not module.name.endswith("__main__")
]


def test_the_core_imports_numpy_and_nothing_else():
    """Every module of the core, analytic distributions included; a plan is made and run."""
    code = """
import sys
before = set(sys.modules)
import numpy
with_numpy = set(sys.modules)
import pndm_solvers, pndm_solvers.measure, pndm_solvers.problems, pndm_solvers.reference
plan = pndm_solvers.PNDMSolver(pndm_solvers.NoiseSchedule.linear()).plan(5)
plan.run(lambda x, t: x, numpy.ones((1, 2)))
ours = {name.partition(".")[0] for name in set(sys.modules) - with_numpy}
print(sorted(ours - set(sys.stdlib_module_names) - {"pndm_solvers", "numpy"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def public_names():
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("value", list(public_names()))
def test_public_names_are_documented(value):
    members = [value]
    if inspect.isclass(value):
        members += [
            member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            for name, member in vars(value).items()
            if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property | staticmethod))
        ]
        bases = [base for base in value.__mro__[1:] if base.__module__.startswith("pndm_solvers")]
    for member in members:
        inherited = member is not value and any(
            getattr(getattr(base, getattr(member, "__name__", ""), None), "__doc__", None) for base in bases
        )
        assert inspect.getdoc(member) or inherited, member


def test_every_module_says_what_it_is():
    assert all(module.__doc__ for module in MODULES)


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    namespace, printed = {}, io.StringIO()
    with redirect_stdout(printed):
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
            exec(compile(block, "README.md", "exec"), namespace)
    shown = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    assert "".join(shown) == printed.getvalue()
