"""Would the tests notice a slip in the modules that hold the mathematics?

One small change at a time is made to the syntax tree of a module, in a forked process that runs the module's tests
which call the changed function, the quickest first, until one fails. No file is written. What no test notices is
printed, and docs/development/mutation.md says why. Docstrings, annotations, imports, `__all__` and the texts of errors
are left alone; a `raise` is taken out as a whole.

    python benchmarks/mutation.py [MODULE …]
"""

import ast
import copy
import gc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import hypothesis  # noqa: E402 — after the number of threads and the path are set
import pytest  # noqa: E402 — likewise
from tables import heading  # noqa: E402 — likewise

# Each module that holds the mathematics, and the tests of its own.
TESTS = {
    "coordinates": ["tests/methods/test_spaces_solve_their_constants.py"],
    "transfer": ["tests/core/test_a_transfer_keeps_picture_and_noise.py", "tests/core/test_programs_write_rows.py"],
    "program": [
        "tests/core/test_programs_write_rows.py",
        "tests/core/test_a_plan_is_a_table.py",
        "tests/methods/test_published_means_by_hand.py",
    ],
    "grid": ["tests/core/test_grids_fall_to_their_end.py", "tests/core/test_budgets_and_lengths_are_kept.py"],
    "table": ["tests/core/test_a_plan_is_a_table.py", "tests/running/test_any_text_as_a_plan.py"],
    "methods.adams": [
        "tests/methods/test_multistep_weights_are_integrals.py",
        "tests/methods/test_spaces_solve_their_constants.py",
    ],
    "methods.runge_kutta": [
        "tests/methods/test_tableaux_meet_the_order_conditions.py",
        "tests/methods/test_methods_write_their_equations.py",
        "tests/methods/test_spaces_solve_their_constants.py",
        "tests/core/test_programs_write_rows.py",
    ],
    "methods.dpm_solver": ["tests/methods/test_published_means_by_hand.py"],
    "methods.unipc": ["tests/methods/test_published_means_by_hand.py"],
    "methods.deis": ["tests/methods/test_published_means_by_hand.py"],
}
MODULES = tuple(TESTS)
SECONDS = 3  # of the processor for the tests of one mutant: what takes longer without a mutant is not asked
OURS = {"pndm_solvers", "conftest", *(Path(test).stem for tests in TESTS.values() for test in tests)}
LIMIT = 60  # seconds after which a mutant counts as one that hangs, which a test suite notices

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Div,),
    ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip


def changed(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def without(items: list) -> Iterator[list]:
    for i in range(len(items)):
        yield [*items[:i], *items[i + 1 :]]


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in SWAPS[type(op)]:
                    yield changed(node, ops=[*ops[:i], other(), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            for other in SWAPS.get(type(op), ()):
                yield changed(node, op=other())
            if isinstance(node, ast.BoolOp):
                for rest in without(node.values):
                    yield changed(node, values=rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield changed(node, value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (changed(node, value=value + 1), changed(node, value=value - 1))
        case ast.Constant(value=str(value)):
            yield changed(node, value=f"XX{value}")
        case ast.Constant(value=None):
            yield changed(node, value=1)
        case ast.Return(value=ast.AST()) | ast.Assign() | ast.AnnAssign(value=ast.AST()):
            yield changed(node, value=ast.Constant(None))
        case ast.Expr() | ast.Raise():
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Call(args=args, keywords=keywords):
            yield from (arg for arg in args if not isinstance(arg, ast.Starred))
            for keyword, rest in zip(keywords, without(keywords), strict=True):
                if not isinstance(getattr(keyword.value, "value", None), bool):  # left out it is mostly what it is not
                    yield changed(node, keywords=rest)
        case ast.Slice(lower=lower, upper=upper, step=step):
            for name, bound in (("lower", lower), ("upper", upper), ("step", step)):
                if bound:
                    yield changed(node, **{name: None})
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
            for rest in without(kinds):
                yield changed(node, type=ast.Tuple(rest, ast.Load()))
        case ast.FunctionDef(decorator_list=decorators) | ast.ClassDef(decorator_list=decorators):
            for rest in without(decorators):
                yield changed(node, decorator_list=rest)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield changed(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.comprehension):
        for i, test in enumerate(node.ifs):
            yield changed(node, ifs=[*node.ifs[:i], ast.UnaryOp(ast.Not(), test), *node.ifs[i + 1 :]])


def left_alone(parent: ast.AST, field: str, node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Assign(value=ast.Subscript()) if isinstance(parent, ast.Module):  # a name for a type
            return True
    return isinstance(parent, ast.Raise) or field in ("annotation", "returns", "ctx")


Mutant = tuple[ast.FunctionDef | None, ast.AST, ast.AST, Callable[[], None]]


def mutants(parent: ast.AST, outer: ast.FunctionDef | None = None) -> Iterator[Mutant]:
    """The outermost function, a node in it, what may stand in its place, and what puts it there: all over a tree."""
    for field, value in ast.iter_fields(parent):
        for i, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or left_alone(parent, field, node):
                continue
            function = outer or (node if isinstance(node, ast.FunctionDef) else None)
            # A call whose result nobody takes is as good as gone with an argument in its place.
            for new in variants(node) if not isinstance(parent, ast.Expr) else ():
                ast.copy_location(new, node if hasattr(node, "lineno") else parent)

                def replace(value=value, i=i, field=field, new=new):
                    if isinstance(value, list):
                        value[i] = new
                    else:
                        setattr(parent, field, new)

                yield function, node, new, replace
            yield from mutants(node, function)


def source(name: str) -> Path:
    return ROOT / "pndm_solvers" / (name.replace(".", "/") + ".py")


class Watch:
    """A pytest plugin: how long each test takes, and which of our functions it calls."""

    def __init__(self) -> None:
        self.files = {str(source(name)): name for name in MODULES}
        self.tests: dict[str, tuple[float, set[tuple[str, int]]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        calls, began = set(), time.process_time()

        def trace(frame, event, arg):
            if frame.f_code.co_filename in self.files:
                calls.add((self.files[frame.f_code.co_filename], frame.f_code.co_firstlineno))

        sys.settrace(trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.tests[item.nodeid] = time.process_time() - began, calls


class Choose:
    """A pytest plugin: these of the `known` tests alone, in this order, and then cases that only a mutant has."""

    def __init__(self, tests: list[str], known: Collection[str]) -> None:
        self.places, self.known = {test: i for i, test in enumerate(tests)}, known

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid in self.places or item.nodeid not in self.known]
        items.sort(key=lambda item: self.places.get(item.nodeid, len(self.places)))


def run_tests(files: list[str], plugin: object) -> int:
    return pytest.main(["-x", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *files], plugins=[plugin])


def notice(tests: list[str], known: Collection[str], name: str, tree: ast.Module, replace: Callable[[], None]) -> bool:
    """Whether one of these tests fails over the module of that name made from the tree after `replace`."""
    if not tests:  # no test of the module's own calls the function
        return False
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(LIMIT)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            replace()
            code = compile(ast.fix_missing_locations(tree), str(source(name)), "exec")
            original = importlib.machinery.SourceFileLoader.get_code
            importlib.machinery.SourceFileLoader.get_code = lambda self, module: (
                code if module == f"pndm_solvers.{name}" else original(self, module)
            )
            for module in [m for m in sys.modules if m.partition(".")[0] in OURS]:
                del sys.modules[module]
            status = run_tests(sorted({test.partition("::")[0] for test in tests}), Choose(tests, known))
        finally:
            os._exit(status)  # 1 as well where the mutant cannot even be imported
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def chosen(watch: Watch, name: str, function: ast.FunctionDef | None) -> list[str]:
    """The module's tests that call a function, the quickest first; all of them for what runs on import."""
    # A decorated function may be cached, and then it is not called by every test that needs it.
    anywhere = function is None or bool(function.decorator_list)
    tests, seconds = [], 0.0
    for test, (took, calls) in sorted(watch.tests.items(), key=lambda item: item[1][0]):
        if test.startswith(tuple(TESTS[name])) and (
            anywhere or any(file == name and function.lineno <= line <= function.end_lineno for file, line in calls)
        ):
            seconds += took
            if seconds <= SECONDS:
                tests.append(test)
    return tests


def report(name: str, watch: Watch) -> None:
    """Prints what no test noticed in a module, and the score."""
    tree = ast.parse(source(name).read_text(encoding="utf-8"))
    killed, survivors, began = 0, 0, time.perf_counter()
    if notice(chosen(watch, name, None), watch.tests, name, tree, lambda: None):
        sys.exit(f"{name}: its tests fail without a mutant")
    for function, node, new, replace in mutants(tree):
        if notice(chosen(watch, name, function), watch.tests, name, tree, replace):
            killed += 1
        else:
            survivors += 1
            before, after = (" ".join(ast.unparse(part).split())[:160] for part in (node, new))
            line = getattr(new, "lineno", function.lineno if function else 0)  # a comprehension's `for` has none
            where = f"{name}.py:{line}" + (f", {function.name}" if function else "")
            print(f"{where}: `{before}` -> `{after}`", flush=True)
    count, took = killed + survivors, time.perf_counter() - began
    print(f"{name}: {killed} of {count} killed, {killed / count:.1%}, {took:.0f} s", flush=True)


def main(names: list[str]) -> None:
    os.chdir(ROOT)
    # The same examples for each mutant, and none kept for later.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutation", database=None, derandomize=True, deadline=None, phases=phases)
    hypothesis.settings.load_profile("mutation")
    watch = Watch()
    if run_tests([test for name in names for test in TESTS[name]], watch):
        sys.exit("the tests fail without a mutant")
    gc.freeze()
    print(heading(), flush=True)
    for name in names:
        report(name, watch)


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODULES))
