"""`import pndm_solvers` leaves out what no sampler needs; its names are there all the same."""

import subprocess
import sys

import pytest

import pndm_solvers


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", sorted(pndm_solvers.LATER))
def test_a_name_of_a_later_module_is_its_own(name):
    module = pndm_solvers.LATER[name]
    assert name in pndm_solvers.__all__
    assert getattr(pndm_solvers, name) is getattr(getattr(pndm_solvers, module), name)


def test_the_later_modules_are_imported_at_first_use():
    modules = sorted(set(pndm_solvers.LATER.values()))
    loaded = f"print([name for name in {modules} if 'pndm_solvers.' + name in sys.modules])"
    assert run(f"import sys, pndm_solvers; pndm_solvers.PLMSSolver; {loaded}") == "[]"
    assert run(f"import sys, pndm_solvers; pndm_solvers.Problem; {loaded}") == "['problem']"


def test_every_name_is_listed_and_an_unknown_one_is_an_error():
    assert set(pndm_solvers.__all__) <= set(dir(pndm_solvers))
    with pytest.raises(AttributeError, match=r"'pndm_solvers' has no attribute 'Solvr'"):
        pndm_solvers.Solvr  # noqa: B018
