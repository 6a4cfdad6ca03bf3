"""Every code block of the documentation and the README runs: Python in order in one namespace, shell line by line.

A page may count on names and files that its reader has, as `pipe` or a network of one's own: `READERS` makes them.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from readers import OUTCOMES, READERS
from registries import registered_for_now
from run_command import runner

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
# A test draws fewer images, by fewer processes.
SMALLER = {"50000": "24", "2000": "24", "--nproc-per-node=8": "--nproc-per-node=2", "/shared/set": "shared"}
# What installs, takes an hour or needs several machines: CI's own steps, and commands of the benchmarks.
ELSEWHERE = ("pip ", "git ", "python3 -m venv", "mkdocs ", "python benchmarks/", "sudo ", "pytest", "srun ")


def blocks_of(page):
    """(language, code) of each block."""
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [(language, re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)) for indent, language, code in found]


def lines_of(code):
    """The commands of a shell block, without comments, `\\`-joined lines as one."""
    joined = code.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_runs(page, tmp_path, monkeypatch, capsys):
    """A text block shows what the block before it prints. Its numbers may differ, since machines do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    names, printed = {"__name__": "page"}, ""
    run = runner(capsys, monkeypatch)
    READERS.get(page, lambda names: None)(names)
    capsys.readouterr()
    with registered_for_now():
        for language, code in blocks_of(page):
            if language == "python":
                exec(compile(code, page, "exec"), names)
                printed = capsys.readouterr().out
            elif language == "sh":
                printed = "".join(execute(words, run) for words in lines_of(code))
            elif language == "text" and printed:
                assert words_of(printed) == words_of(code)
                assert page != "README.md" or printed == code
                printed = ""
    OUTCOMES.get(page, lambda names: None)(names)


def words_of(text):
    """A text without its numbers, so without the spaces and signs that depend on them."""
    return re.sub(r"[-−+]?[\d,.]+(e[-+]?\d+)?", "0", text).split()


def execute(words, run):
    line = " ".join(words)
    if line.startswith(ELSEWHERE) or ".venv" in line or "--nnodes" in line:
        return ""
    program, *arguments = (SMALLER.get(word, word) for word in words)
    if program == "pndm-solvers":
        status, out, err = run(*arguments)
        assert status == 0, f"{line}\n{err}"
        return out
    assert program in ("torchrun", "python"), f"{line}: no test knows {program}"
    command = [sys.executable, *arguments] if program == "python" else [*TORCHRUN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return done.stdout


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    """So no Python is left out by another name."""
    known = {"python", "sh", "text", "json", "mermaid"}
    assert {language for language, _ in blocks_of(page)} <= known


def test_no_page_is_without_an_example():
    """Code, a command, a picture, a table, or a file of the root that is shown."""
    example = re.compile(r"!\[|^\| |^--8<-- ", re.MULTILINE)
    bare = [page for page in PAGES if not blocks_of(page) and not example.search((ROOT / page).read_text("utf-8"))]
    assert bare == []


def test_a_line_stands_empty_before_each_table():
    """Else the table is shown as running text."""
    stuck = []
    for page in PAGES:
        lines = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE).split(
            "\n"
        )
        for before, head, rule in zip(lines, lines[1:], lines[2:], strict=False):
            if head.startswith("|") and re.fullmatch(r"\|[\s:|-]+\|", rule) and before.strip():
                stuck.append((page, head))
    assert stuck == []
