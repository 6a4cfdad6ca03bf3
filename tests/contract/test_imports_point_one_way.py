"""Imports point one way: no circle in the package, and no way from numbers to arrays.

Every import statement of every module counts, those inside functions too. Imports under `if TYPE_CHECKING:` do not
count, since they are not executed.
"""

import ast
from pathlib import Path

import pytest

import pndm_solvers

PACKAGE = Path(pndm_solvers.__file__).parent
ROOT = PACKAGE.name


def modules():
    """Every module of the package by its name below the package; the package itself is "__init__"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(parts)] = path
    return found


class Imports(ast.NodeVisitor):
    """The dotted names that a module may import, each from inside the package, as absolute names."""

    def __init__(self, module, is_package):
        self.names = []
        self.base = [ROOT, *([] if module == "__init__" else module.split("."))]
        self.is_package = is_package

    def visit_If(self, node):
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)
        else:
            for other in node.orelse:
                self.visit(other)

    def visit_Import(self, node):
        self.names += [(alias.name, None) for alias in node.names]

    def visit_ImportFrom(self, node):
        source = [node.module] if node.module else []
        if node.level:
            above = node.level - self.is_package
            source = [*self.base[: len(self.base) - above], *source]
        self.names += [(".".join(source), alias.name) for alias in node.names]


def graph(found=None):
    """module -> the modules that it imports. A name that is no module counts for the package that holds it."""
    found = modules() if found is None else found
    edges = {}
    for module, path in found.items():
        imports = Imports(module, path.name == "__init__.py")
        imports.visit(ast.parse(path.read_text(encoding="utf-8")))
        edges[module] = set()
        for source, name in imports.names:
            if source.split(".")[0] != ROOT:
                continue
            inside = source.partition(".")[2]
            submodule = ".".join(part for part in (inside, name) if part)
            target = submodule if submodule in found else inside or "__init__"
            if target in found and target != module:
                edges[module].add(target)
    return edges


EDGES = graph()


def reached(start, without=()):
    """The modules that `start` imports, directly or by way of others, but not through those in `without`."""
    seen, todo = set(), [start]
    while todo:
        for module in EDGES[todo.pop()] - seen - set(without):
            seen.add(module)
            todo.append(module)
    return seen


METHODS = [module for module in EDGES if module.split(".")[0] == "methods"]

# What holds numbers alone.
NUMBERS = (
    "arguments",
    "betas",
    "config",
    "coordinates",
    "cubic",
    "grid",
    "older",
    "prediction",
    "program",
    "quadrature",
    "remembered",
    "rule",
    "schedule",
    "schedules",
    "sde",
    "spacings",
    "table",
    "transfer",
)

# What a program needs to make a plan and to run it. The rest of the package stands on these and they on none of it.
CORE = (
    *NUMBERS,
    *METHODS,
    "advice",
    "array_library",
    "arrays",
    "batcher",
    "batching",
    "checkpoint",
    "condition",
    "estimate",
    "files",
    "guidance",
    "forward",
    "in_place",
    "latents",
    "libraries",
    "likelihood",
    "ode",
    "brownian",
    "noise",
    "transition",
    "observers",
    "plan",
    "run_options",
    "solver",
    "tolerance",
    "torch_library",
)

# (from, to): the second is not reached from the first.
FORBIDDEN = [
    *(
        (numbers, array)
        for numbers in NUMBERS
        for array in ("arrays", "array_library", "libraries", "forward", "noise", "latents", "checkpoint")
    ),
    *((schedule, "grid") for schedule in ("schedule", "schedules", "config", "prediction", "transfer")),
    *((schedule, "program") for schedule in ("schedule", "schedules", "prediction", "transfer", "grid", "table")),
    *(("grid", method) for method in (*METHODS, "solver", "transfer", "table", "program")),
    *(("table", network) for network in ("plan", "solver", "prediction", "schedules", "grid", *METHODS)),
    *(("program", method) for method in (*METHODS, "solver", "plan", "schedules")),
    *(
        (run, method)
        for run in ("plan", "checkpoint", "observers", "arrays")
        for method in (*METHODS, "solver", "grid")
    ),
    *((seen, "plan") for seen in ("arrays", "noise", "latents", "observers", "checkpoint", "advice")),
    ("schedule", "schedules"),
    ("schedule", "config"),
    ("config", "schedules"),
    ("arguments", "schedule"),
    ("distances", "plan"),
    ("flow", "problem"),
    ("orders", "measure"),
    *((core, "fit") for core in CORE),
    ("fit.runs", "fit.pilot"),
    ("fit.draft", "fit.runs"),
    ("fit.search", "fit.pilot"),
]


def test_the_statements_are_found():
    """Late imports, packages and names in them are edges, and imports for type checkers are none."""
    assert {"plan", "program", "grid"} <= EDGES["solver"]
    assert "arrays" in EDGES["latents"]  # from pndm_solvers import arrays
    assert "plan" not in EDGES["observers"]  # under TYPE_CHECKING
    assert "solver" in EDGES["__init__"]
    assert {"methods.ddim", "methods.multistep"} <= EDGES["methods"]
    assert set(EDGES) == set(modules())


def test_no_module_reaches_itself():
    circles = [module for module in EDGES if module in reached(module)]
    assert not circles, {module: sorted(EDGES[module] & set(circles)) for module in circles}


@pytest.mark.parametrize("module", [*NUMBERS, *METHODS])
def test_numbers_never_reach_arrays(module):
    """A method reaches arrays by way of `solver` alone, which makes the plan that runs."""
    assert "arrays" not in reached(module, without=["solver"])
    if module in NUMBERS:
        assert "arrays" not in reached(module)


def test_no_way_back():
    assert {name for pair in FORBIDDEN for name in pair} <= set(EDGES)
    wrong = [f"{here} reaches {there}" for here, there in FORBIDDEN if there in reached(here)]
    assert not wrong


def test_the_core_stands_on_itself():
    assert set(CORE) <= set(EDGES)
    outside = {module: sorted(reached(module) - set(CORE)) for module in CORE}
    assert not any(outside.values()), {module: names for module, names in outside.items() if names}
