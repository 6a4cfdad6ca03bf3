"""The code of docs/how-to/scale.md on sets of images."""

import re
from pathlib import Path

import numpy as np
import pytest
from run_command import runner


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "scale.md"


def test_the_code_of_the_page_runs(run, tmp_path, monkeypatch):
    """The first two blocks are a module with networks of one's own, the third reads a set."""
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text(encoding="utf-8").partition("\n## Many requests")[0]
    *own, reading = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "network_of_the_page.py").write_text("\n\n".join(own), encoding="utf-8")
    model = ("--model", "network_of_the_page:network", "--guidance", 2, "--calls", 4)
    status, _, err = run("generate", *model, "--num-images", 10, "--batch", 4, "--shard-batches", 1, "--out", "set")
    assert status == 0, err
    names = {}
    exec(compile(reading, str(PAGE), "exec"), names)
    images = names["read"](tmp_path / "set")
    assert images.shape == (10, 32, 32, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1
    spectra = ("--model", "network_of_the_page:spectra", "--calls", 4)
    status, _, err = run("generate", *spectra, "--num-images", 10, "--out", "spectra")
    assert status == 0, err
    assert names["read"](tmp_path / "spectra", "samples").shape == (10, 64)


def test_every_option_of_the_page_is_one(run):
    section = PAGE.read_text(encoding="utf-8").partition("\n## Many requests")[0]
    known = run("generate", "--help")[1]
    listed = re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)
    assert len(listed) == 8
    assert [option for option in listed if option not in known] == []
