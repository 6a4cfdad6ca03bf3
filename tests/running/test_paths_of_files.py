"""A state is written to its path whole or not at all, and a path that cannot be used is refused before any call."""

import os
import resource

import numpy as np
import pytest
from runs import LINEAR, START, interrupted_after, smooth, states_of
from state_files import same_state

from pndm_solvers import PLMSSolver, State

PLMS = PLMSSolver(LINEAR).plan(6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def test_what_is_no_path_is_refused():
    for wrong, error in ((5, TypeError), (b"run", TypeError), (True, TypeError), ("", ValueError)):
        with pytest.raises(error, match=r"checkpoint is .*the path of a file"):
            PLMS.run(interrupted_after(0), START, checkpoint=wrong)
        with pytest.raises(error, match=r"path is .*the path of a file"):
            PLMS.start(START).save(wrong)
        with pytest.raises(error, match=r"path is .*the path of a file"):
            State.load(wrong)


def test_a_tilde_is_the_folder_of_the_user(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    PLMS.run(smooth, START, checkpoint=f"~/{path.name}")
    assert State.load(f"~/{path.name}").done
    assert path.exists()


def test_paths_that_cannot_be_written_are_errors_before_the_first_call(tmp_path):
    (tmp_path / "file").touch()
    for path, kind in (
        (tmp_path / "missing" / "run", FileNotFoundError),
        (tmp_path, IsADirectoryError),
        (tmp_path / "file" / "run", NotADirectoryError),
    ):
        with pytest.raises(kind, match=f".*{path}"):
            PLMS.run(interrupted_after(0), START, checkpoint=path)
        with pytest.raises(kind, match=f".*{path}"):
            PLMS.start(START).save(path)
        with pytest.raises(kind, match=f".*{path}"):
            State.load(path)
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_permission_is_an_error_before_the_first_call(tmp_path):
    tmp_path.chmod(0o500)
    user = os.geteuid()
    try:
        if user == 0:  # root may write everywhere, and nobody may not
            os.seteuid(65534)
        with pytest.raises(PermissionError, match="Permission denied"):
            PLMS.run(interrupted_after(0), START, checkpoint=tmp_path / "run")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(path):
    """A limit on the size of files stops the second write in its middle, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    first, second, *_ = states_of(PLMS, np.zeros((2000, 1)), seed=1)
    first.save(path)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limits[1]))
    try:
        with pytest.raises(OSError, match=str(path)):
            second.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(path, monkeypatch):
    first, second, *_ = states_of(PLMS, START)
    first.save(path)
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                second.save(path)
        assert same_state(State.load(path), first)
        assert os.listdir(path.parent) == [path.name]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    PLMS.start(START).save(tmp_path / ("x" * 255))
    assert os.listdir(tmp_path) == ["x" * 255]


def test_a_run_that_changes_its_folder_keeps_its_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def wandering(x, t):
        os.chdir(tmp_path / "elsewhere")
        return smooth(x, t)

    PLMS.run(wandering, START, checkpoint="run")
    assert State.load(tmp_path / "run").done
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "run", tmp_path / "elsewhere" / "run"
    link.symlink_to(target)
    PLMS.start(START).save(link)
    assert link.is_symlink()
    assert same_state(State.load(link), State.load(target))
