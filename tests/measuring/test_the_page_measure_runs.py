"""The blocks of the page "Measure your own network" run in order, on a fresh network."""

import re
from pathlib import Path

import torch  # noqa: F401 — the page needs it
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "measure.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert min(Image.open("compare.png").size) > 400
    assert (tmp_path / "ring.npz").exists()
    printed = capsys.readouterr()
    assert "own network: a reference of 512 model calls from t = 673.666 to -1, its own error about" in printed.err
    assert namespace["gap"].low < namespace["gap"].value < namespace["gap"].high < 0
    for curve in namespace["curves"]:
        assert curve.limit < curve.value[0]
