"""`pndm-solvers --help` names every choice, and every mistake is one clear line."""

import subprocess
import sys

import pytest
from run_command import runner

import pndm_solvers.__main__


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
    assert "makes 1 model call, in 1 step; with one step more it would make over 2" in err
    assert not run("plan", "--solver", "prk-rk4", "--calls", 5)[2]


def test_the_version_is_printed(run):
    assert run("--version")[:2] == (0, f"pndm_solvers {pndm_solvers.__version__}\n")


def test_the_folder_of_a_file_is_made(run, tmp_path):
    out = tmp_path / "new" / "folder" / "samples.png"
    assert run("sample", "--network", "digits", "--count", 2, "--calls", 4, "--out", out)[0] == 0
    assert out.exists()


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
