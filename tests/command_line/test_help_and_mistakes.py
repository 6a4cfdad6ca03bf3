"""`pndm-solvers --help` names every choice, and every mistake is one clear line."""

import inspect
import re
import subprocess
import sys

import pytest
from run_command import runner

import pndm_solvers.__main__
from pndm_solvers.cli.command import SECTIONS, in_options
from pndm_solvers.cli.options import METHOD_OPTIONS
from pndm_solvers.methods import SOLVERS


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--network", "cats"), "bundled are"),
        (("sample", "--solver", "euler"), "known are ddim"),
        (("sample", "--solver", "ddpm", "--eta", 1), "--eta is not an option"),
        (("sample", "--solver", "prk-heun", "--order", 1), "--order is not an option"),
        (("sample", "--class", "hat"), "9 ankle boot"),
        (("sample", "--network", "digits", "--class", "3"), "no classes"),
        (("sample", "--steps", 3, "--calls", 3), "not both"),
        (("sample", "--tolerance", 0.1, "--calls", 3), "not both"),
        (("sample", "--tolerance", -1, "--network", "digits"), "above 0"),
        (("sample", "--tolerance", 0.1, "--network", "digits", "--solver", "ddpm"), "draws noise"),
        (("sample", "--network", "digits", "--guidance", "3"), "no classes"),
        (("sample", "--out", "/dev/null/x.png"), "cannot be made"),
        (("sample", "--out", "x.pnq"), "extension"),
        (("sample", "--out", "/"), "is a folder"),
        (("sample", "--calls", 4, "--count", 2, "--guidance", "1e30"), "not finite"),
        (("sample", "--gif", "x.png"), "must be .gif"),
        (("sample", "--out", "x.gif", "--gif", "x.gif"), "overwrite"),
        (("sample", "--guidance", "nan"), "finite"),
        (("sample", "--device", "nonsense"), "--device is 'nonsense'"),
        (("plan", "--schedule", "sigmoid"), "schedule is 'sigmoid'"),
        (("plan", "--steps", 0), "at least 1"),
        (("plan", "--weights", "even"), "'exact'"),
        (("plan", "--solver", "plms-classical", "--weights", "exact"), "--weights is not an option"),
        (("order", "--solver", "euler"), "known are ddim"),
        (("order", "--solver", "ddpm"), "known are ddim"),
        (("order", "--problem", "cats"), "known are gaussian"),
        (("order", "--grid", "log"), "known are uniform"),
        (("order", "--steps", "10"), "two numbers of steps"),
        (("order", "--steps", "10,x"), "whole numbers"),
        (("order", "--schedule", "sigmoid"), "schedule is 'sigmoid'"),
        (("order", "--out", "/dev/null/x.png"), "cannot be made"),
        (("compare", "--solver", "ddpm"), "known are ddim"),
        (("compare", "--spacing", "even"), "log_snr, exponential, karras"),
        (("compare", "--problem", "cats"), "fashion"),
        (("compare", "--problem", "digits", "--schedule", "cosine"), "its own schedule"),
        (("compare", "--calls", "0"), "at least 1"),
        (("compare", "--out", "x.pnq"), "extension"),
    ],
)
def test_mistakes_are_one_clear_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert status != 0
    assert message in err
    assert "Traceback" not in err
    assert not out


def test_a_budget_that_a_method_cannot_spend_is_told(run):
    status, out, err = run("plan", "--solver", "prk-rk4", "--calls", 2)
    assert (status, "1 model call," in out) == (0, True)
    assert "makes 1 model call, in 1 step; 2 steps take 5, more than --calls 2" in err
    assert not run("plan", "--solver", "prk-rk4", "--calls", 5)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "--steps", 0), "--steps is 0"),
        (("plan", "--shape", "2x2"), "--shape is '2x2'"),
        (("plan", "--data-range", 0), "--data-range is 0"),
        (("plan", "--calls", 200_000), "--calls is 200000"),
        (("plan", "--steps", 1001, "--spacing", "leading"), "--steps is 1001"),
        (("plan", "--spacing", "x"), "--spacing is 'x'"),
        (("plan", "--order", 0), "--order is 0"),
        (("plan", "--starter", "x"), "--starter is 'x'"),
        (("plan", "--weights", "x"), "--weights is 'x'"),
        (("plan", "--space", "x"), "--space is 'x'"),
        (("plan", "--coordinate", "x"), "--coordinate is 'x'"),
        (("plan", "--solver", "dpm-2", "--solver-type", "x"), "--solver-type is 'x'"),
        (("plan", "--solver", "unipc", "--variant", "x"), "--variant is 'x'"),
        (("plan", "--solver", "prk-heun", "--fractions", "x"), "--fractions is 'x'"),
        (("plan", "--solver", "ddim", "--eta", 3), "--eta is 3"),
        (("plan", "--solver", "ddpm", "--variance", "x"), "--variance is 'x'"),
        (("plan", "--schedule", "x"), "--schedule is 'x'"),
        (("plan", "--prediction", "x"), "--prediction is 'x'"),
        (("plan", "--final", "x"), "--final is 'x'"),
        (("plan", "--start", 5000), "--start is 5000, outside"),
        (("plan", "--start", 5000), "--final clean for"),
        (("plan", "--stop", 999, "--steps", 3), "--stop = 999 is not below"),
        (("plan", "--stop", 999, "--steps", 3), "pass --start too"),
        (("sample", "--tolerance", -1, "--network", "digits"), "--tolerance is -1"),
        (("sample", "--clip", -1, "--network", "digits"), "--clip is -1; it must be above 0, and inf"),
        (("sample", "--out", "x.pnq"), "--out: x.pnq"),
        (("sample", "--gif", "x.png"), "--gif: x.png"),
        (("sample", "--npz", "x.npy"), "--npz is x.npy"),
        (("sample", "--trajectory", "x"), "--trajectory is x;"),
        (("sample", "--npz", "x.npz", "--trajectory", "x.npz"), "--npz and --trajectory are both x.npz"),
        (("fit", "--network", "digits", "--calls", 50), "--levels is 192, and --calls 50 needs 200"),
        (("fit", "--out", "/"), "--out is /, a folder"),
        (("generate", "--out", "s", "--num-images", 3, "--steps", 0), "--steps is 0"),
        (("generate", "--out", "s", "--num-images", 3, "--dtype", "x"), "--dtype is 'x'"),
        (("compare", "--data", "no.npy", "--problem", "digits"), "no.npy: No such file"),
        (("plan", "--plan", "no.json"), "no.json: No such file"),
    ],
)
def test_messages_name_options_and_not_parameters(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert "num_inference_steps" not in err
    assert "max_model_calls" not in err


def test_only_options_of_the_command_that_runs_are_named(run):
    """`sample` has no --start, so its advice keeps the name of the library's parameter."""
    assert run("sample", "--network", "x")[0] == 1
    told = in_options("order is 3; pass start=5 or spacing='karras', not max_model_calls=7; the order of calls stays")
    assert told == "--order is 3; pass start=5 or --spacing karras, not --calls 7; the order of calls stays"
    assert run("plan", "--solver", "x")[0] == 1
    assert in_options("pass start=5") == "pass --start 5"


def test_the_version_is_printed(run):
    assert run("--version")[:2] == (0, f"pndm_solvers {pndm_solvers.__version__}\n")


DRAW = ("sample", "--network", "digits", "--count", 2, "--calls", 4)
MEASURE = ("compare", "--starts", 2, "--calls", 4, "--solver", "ddim")


@pytest.mark.parametrize(
    ("arguments", "option", "name"),
    [
        (DRAW, "--out", "samples.png"),
        (DRAW, "--npz", "samples.npz"),
        (DRAW, "--trajectory", "states.npz"),
        (DRAW, "--gif", "steps.gif"),
        (("generate", "--network", "digits", "--num-images", 2, "--batch", 2, "--calls", 4), "--out", "set"),
        (("order", "--solver", "ddim", "--steps", "5,10"), "--out", "order.png"),
        (MEASURE, "--out", "compare.png"),
        ((*MEASURE, "--problem", "digits"), "--saved", "fine.npz"),
        (("fit", "--network", "digits", "--samples", 8, "--levels", 12, "--calls", 2), "--out", "plan.json"),
        (("fit", "--network", "digits", "--samples", 8, "--levels", 12, "--calls", 2), "--pilot", "pilot.npz"),
    ],
)
def test_the_folder_of_a_file_is_made(run, tmp_path, monkeypatch, arguments, option, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "new" / "folder" / name
    status, _, err = run(*arguments, option, path)
    assert (status, path.exists()) == (0, True), err


def test_every_option_of_a_method_is_told_with_the_methods_that_take_it(run):
    """So `--help` says of each method's options which solvers they are for, by their names or families."""
    told = run("sample", "--help")[1].split("Options of single methods:")[1].replace("\n", " ")
    for option in METHOD_OPTIONS:
        flag = f"--{option.replace('_', '-')}"
        text = re.split(r" --(?!no-|full-)", told.split(f" {flag} ")[1])[0]
        for name, make in SOLVERS.items():
            if option in inspect.signature(make).parameters.keys() - getattr(make, "keywords", {}).keys():
                family = name if name == "er-sde" else name.split("-")[0]
                assert re.search(rf"\b{family}\b", text), (option, name)


def test_help_is_in_sections(run):
    out = run("sample", "--help")[1]
    sections = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert sections == [*SECTIONS[1:2], *SECTIONS[3:]]
    assert out.index("--count") < out.index("--calls") < out.index("--out") < out.index("--order")


def test_help_names_every_choice(run):
    for command in ("sample", "plan", "order", "compare"):
        status, out, _ = run(command, "--help")
        assert status == 0
        assert all(word in out for word in ("ddim", "prk-rk4", "linear" if command == "order" else "trailing"))


def test_without_its_extra_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "pndm_solvers.cli")
    monkeypatch.delattr(pndm_solvers, "cli")
    with pytest.raises(SystemExit, match=r"pndm_solvers\[demo\]"):
        pndm_solvers.__main__.main()


def test_as_a_module():
    command = [sys.executable, "-m", "pndm_solvers", "plan", "--calls", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 model calls" in done.stdout
