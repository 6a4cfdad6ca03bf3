"""The page docs/reference/command-line.md has each command and each option of it, and no other."""

import re
from pathlib import Path

import pytest
import typer.main

from pndm_solvers.cli import app
from pndm_solvers.cli.options import METHOD_OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", PAGE, re.MULTILINE))
OF_A_PLAN = {"--" + name.replace("_", "-") for name in ("calls", "steps", "solver", "plan", "spacing", *METHOD_OPTIONS)}
OF_A_PLAN |= {"--no-corrector", "--full-order-final"}


def options_of(command):
    given = [param for param in command.params if param.param_type_name == "option"]
    return {flag for param in given for flag in (*param.opts, *param.secondary_opts)} - {"--help"}


def options_on_the_page(section):
    """Those in the first columns of the section's tables."""
    return set(re.findall(r"`(--[\w-]+)`", "\n".join(re.findall(r"^\| ([^|]*) \|", SECTIONS[section], re.MULTILINE))))


@pytest.mark.parametrize("name", ["sample", "generate", "verify", "fit", "plan", "compare", "order"])
def test_the_options_of_a_command_are_those_on_the_page(name):
    written = options_on_the_page(name)
    if name in ("generate", "plan"):
        assert "options of the plan are those of [`sample`]" in SECTIONS[name]
        written |= OF_A_PLAN
    assert written == options_of(COMMANDS[name])


def test_every_command_is_on_the_page():
    assert set(re.findall(r"^\| \[`(\w+)`\]", PAGE, re.MULTILINE)) | {"a1111"} == set(COMMANDS)
    assert options_of(COMMANDS["comfyui"]) == options_of(COMMANDS["a1111"]) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_gives_the_defaults_of_options(name):
    """Where an option has one default for all cases, the last column is that."""
    rows = re.findall(r"^\| `--([\w-]+)` \| .* \| (.*?) \|$", SECTIONS.get(name, ""), re.MULTILINE)
    told = {option: default.strip("`") for option, default in rows}
    for param in COMMANDS[name].params:
        option = param.opts[0].removeprefix("--")
        if param.default not in (None, False, ()) and not callable(param.default) and told.get(option):
            assert told[option] == str(param.default), option
