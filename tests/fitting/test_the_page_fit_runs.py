"""The Python blocks of the page "A plan for your network" run in order, and print a table like the one shown there."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "fit.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace, text = {}, PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    printed, (shown,) = capsys.readouterr(), re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert "pilot of 128 samples" in printed.err
    assert words(printed.out) == words(shown)
    assert namespace["fit"].gain < 0.1
    assert np.isfinite(namespace["x0"]).all()


def words(table):
    """A table without its numbers."""
    return re.sub(r"[\d,.]+(e-\d+)?", "0", table).split()
