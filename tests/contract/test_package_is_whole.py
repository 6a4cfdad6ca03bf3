"""The package as a whole: its imports and its docstrings."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import diffusers  # noqa: F401 — the modules need it

import pndm_solvers

ROOT = Path(__file__).parents[2]
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(pndm_solvers.__path__, "pndm_solvers.")
    if not module.name.endswith("__main__")
    and not module.name.startswith(("pndm_solvers.adapters.comfyui", "pndm_solvers.adapters.a1111"))  # in these alone
]


def test_the_core_imports_numpy_and_nothing_else():
    """The core includes the measurements. A plan is made and run, so that late imports count too."""
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


def test_a_program_beside_a_clone_imports_the_library(tmp_path):
    """Python takes the clone for the package, as it has a file that makes it one in ComfyUI."""
    (tmp_path / "pndm_solvers").mkdir()
    for name in ("__init__.py", "pndm_solvers"):
        (tmp_path / "pndm_solvers" / name).symlink_to(ROOT / name)
    code = "import pndm_solvers.reference; from pndm_solvers import DDIMSolver; print(pndm_solvers.__file__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert Path(done.stdout.strip()).parent.name == Path(done.stdout.strip()).parents[1].name == "pndm_solvers"


def public_members():
    """(dotted name, object, what it overrides) of every public class and function, and of every public member."""
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value, ()
            if inspect.isclass(value):
                for key, member in vars(value).items():
                    if not key.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                        function = member.fget if isinstance(member, property) else member
                        bases = [base for base in value.__mro__[1:] if base.__module__.startswith("pndm_solvers")]
                        yield f"{module.__name__}.{name}.{key}", function, [getattr(base, key, None) for base in bases]


def test_every_public_name_is_documented():
    """By a docstring of its own, or by that of the method that it overrides."""
    members = list(public_members())
    assert len(members) > 100  # the walk finds the package
    assert [
        where for where, value, bases in members if not any(getattr(one, "__doc__", None) for one in (value, *bases))
    ] == []


def test_every_module_has_a_docstring_and_is_one_room():
    assert [module.__name__ for module in MODULES if not module.__doc__] == []
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "pndm_solvers").rglob("*.py")}
    assert [path for path, count in lines.items() if count > 400] == []
