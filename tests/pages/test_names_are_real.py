"""Every name on the page of names exists: diffusers' and k-diffusion's on the left, ours on the right."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import diffusers
import pytest

import pndm_solvers
from pndm_solvers import NoiseSchedule, Plan, Prediction, Solver, classifier_free_guidance
from pndm_solvers.adapters import k_diffusion
from pndm_solvers.grid import GridOptions
from pndm_solvers.methods import SOLVERS
from pndm_solvers.run_options import RunOptions

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "names.md"
NAMES = {**vars(k_diffusion), **{name: getattr(pndm_solvers, name) for name in pndm_solvers.__all__}}
NAMES["schedule"] = NoiseSchedule.linear()
CODE = re.compile(r"`([^`]+)`")


def rows_of(first):
    """The cells of each row of the tables whose first head is `first`."""
    tables = re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for table in tables
        if table.startswith(f"| {first} |")
        for row in table.splitlines()[2:]
    ]


HEADS = ("diffusers", "k-diffusion", "ComfyUI, A1111, Forge", "diffusers' calls", "in the papers")
RIGHT = [cell for head in HEADS for row in rows_of(head) for cell in CODE.findall(row[1])]


def parameters(function):
    return set(inspect.signature(function).parameters)


def keywords():
    """Every keyword of a solver, a plan, a run, a prediction or guidance."""
    known = {*GridOptions.__annotations__, *RunOptions.__annotations__}
    classes = [SOLVERS[name] for name in ("ddim", "ddpm", "plms", "dpmpp-2m", "unipc", "sa")]
    return known.union(*map(parameters, [*classes, Solver.sample, Solver.plan, Plan.run, Prediction]))


def test_the_page_has_its_tables():
    assert all(rows_of(head) for head in HEADS)
    assert len(RIGHT) > 100


@pytest.mark.parametrize("code", sorted(set(RIGHT)))
def test_our_names_exist(code):
    assigned = re.fullmatch(r"(\w+)=(.+)", code)
    if assigned:
        name, value = assigned[1], ast.literal_eval(assigned[2])
        assert name in keywords() | parameters(classifier_free_guidance)
        if name == "spacing":
            assert value in pndm_solvers.SPACINGS
        if name == "prediction":
            Prediction(value)
    elif re.fullmatch(r"\w+=", code):
        assert code[:-1] in keywords()
    elif "(" in code or "." in code:
        attribute = re.fullmatch(r"(\w+)\.(\w+)", code)
        if attribute and attribute[1] in NAMES:
            kind = NAMES[attribute[1]]
            assert hasattr(kind, attribute[2]) or attribute[2] in kind.__annotations__
        else:
            eval(code, dict(NAMES))
    else:
        assert code in NAMES or any(
            code in parameters(getattr(diffusers, kind).__init__) for kind in their_schedulers()
        )


def their_schedulers():
    return [name for name in dir(diffusers) if name.endswith("Scheduler") and inspect.isclass(getattr(diffusers, name))]


def test_diffusers_names_exist():
    options = set().union(*(parameters(getattr(diffusers, name).__init__) for name in their_schedulers()))
    named = [code for row in rows_of("diffusers") for code in CODE.findall(row[0])]
    for code in named:
        name = code.partition("=")[0]
        assert hasattr(diffusers, name) if name.endswith("Scheduler") else name in options, code


def test_k_diffusions_names_exist():
    found = importlib.util.find_spec("k_diffusion")
    if not found:
        pytest.skip("k-diffusion is not installed")
    source = (Path(found.origin).parent / "sampling.py").read_text(encoding="utf-8")  # read, since it imports much
    theirs = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    named = {code for row in rows_of("k-diffusion") for code in CODE.findall(row[0])}
    assert named <= theirs
    assert {name for name in theirs if name.startswith("sample_")} <= named


def test_every_spacing_has_a_row():
    named = [code for row in rows_of("name") for code in CODE.findall(row[0])]
    assert sorted(named) == sorted(pndm_solvers.SPACINGS)


def test_comfyuis_samplers_that_we_have_are_ours():
    named = {code for row in rows_of("ComfyUI, A1111, Forge") for code in CODE.findall(row[0])}
    others = {"ddpm", "dpmpp_2m_sde_heun", "ipndm"}
    assert named - others <= k_diffusion.SAMPLERS.keys()
