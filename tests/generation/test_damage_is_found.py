"""Any byte of a set that is changed by hand, and any file that is not its own, is found; what is damaged is mended."""

import os
import shutil
import time

import numpy as np
import pytest
from processes import DIGITS, shards_of
from run_command import runner

from pndm_solvers.generation.shards import Shard, encode, read_shard, stamp_of


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


@pytest.fixture
def folder(run, tmp_path):
    """A set of four shards, two batches each but for the last."""
    options = ("--num-images", 27, "--batch", 4, "--shard-batches", 2, "--out", tmp_path / "set")
    status, _, err = run("generate", *DIGITS, *options)
    assert status == 0, err
    return tmp_path / "set"


def test_every_flipped_bit_is_found():
    shard = Shard(np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array([4, 5]), 16)
    raw = bytearray(encode(shard, "0a" * 32))
    assert stamp_of(bytes(raw)) == ("0a" * 32, 16, 18)
    for place in range(len(raw)):
        for bit in (1, 128):
            raw[place] ^= bit
            with pytest.raises(ValueError, match=r"SHA-256|cut short"):
                stamp_of(bytes(raw))
            raw[place] ^= bit
    for end in range(len(raw)):
        with pytest.raises(ValueError, match=r"SHA-256|cut short"):
            stamp_of(bytes(raw[:end]))


def test_the_file_is_one_of_numpy_and_holds_no_clock(tmp_path, monkeypatch):
    shard = Shard(np.ones((3, 2), np.float32), None, 9)
    raw = bytes(encode(shard, "0" * 64))
    (tmp_path / "a.npz").write_bytes(raw)
    with np.load(tmp_path / "a.npz") as file:
        assert sorted(file.files) == ["first", "samples"]
        assert np.array_equal(file["samples"], shard.images)
    assert read_shard(tmp_path / "a.npz").first == 9
    now = time.localtime
    monkeypatch.setattr(time, "localtime", lambda *_: now(2_000_000_000))
    assert bytes(encode(shard, "0" * 64)) == raw


def test_a_whole_set(run, folder):
    assert run("verify", folder) == (0, f"27 images in 4 shards in {folder}, all digests right\n", "")


def test_everything_wrong_is_named_and_mended(run, folder):
    right = shards_of(folder)
    raw = bytearray(right["shard-00000.npz"])
    raw[100] ^= 1
    (folder / "shard-00000.npz").write_bytes(raw)
    (folder / "shard-00001.npz").unlink()
    shutil.copy(folder / "shard-00003.npz", folder / "shard-00002.npz")
    shutil.copy(folder / "shard-00003.npz", folder / "shard-00003.unfinished.npz")
    (folder / f".shard-00001.npz.{'0' * 32}.partial").touch()
    (folder / "notes.txt").touch()
    status, out, _ = run("verify", folder)
    assert status == 1
    for line in (
        "shard-00000.npz: damaged: its SHA-256 does not match its bytes",
        "shard-00001.npz: missing",
        "shard-00002.npz: damaged: it holds the images from 24, so it was renamed",
        "shard-00003.unfinished.npz: left over, not needed",
        ".partial: left over, not needed",
        f"1 of 4 shards in {folder} are intact; make the others: pndm-solvers verify {folder} --repair",
    ):
        assert line in out
    status, out, err = run("verify", folder, "--repair")
    assert status == 0, err
    assert "27 images" in out
    (folder / "notes.txt").unlink()
    assert shards_of(folder) == right
    assert run("verify", folder)[0] == 0


def test_generate_makes_damaged_shards_again(run, folder):
    right = shards_of(folder)
    (folder / "shard-00002.npz").write_bytes(right["shard-00002.npz"][:-1])
    assert run("generate", "--out", folder)[0] == 0
    assert shards_of(folder) == right


def test_shards_of_another_job_are_left_alone(run, folder, tmp_path):
    options = ("--num-images", 27, "--batch", 4, "--shard-batches", 2, "--seed", 1, "--out", tmp_path / "other")
    assert run("generate", *DIGITS, *options)[0] == 0
    shutil.copy(tmp_path / "other" / "shard-00001.npz", folder)
    shutil.copy(folder / "shard-00000.npz", folder / "shard-00007.npz")
    before = shards_of(folder)
    for command in (("verify", folder), ("verify", folder, "--repair"), ("generate", "--out", folder)):
        status, out, err = run(*command)
        assert status == 1
        assert "shard-00001.npz" in out + err
        assert "shard-00007.npz" in out + err
        assert "of another job" in out + err
    assert shards_of(folder) == before


def test_a_damaged_manifest(run, folder):
    path = folder / "generate.json"
    text = path.read_text(encoding="utf-8")
    for wrong in (text.replace('"seed": 0', '"seed": 1'), text[:-3], "[]"):
        path.write_text(wrong, encoding="utf-8")
        status, _, err = run("verify", folder)
        assert status == 1
        assert "delete it and give the whole command again" in err
    os.remove(path)
    assert run("generate", *DIGITS, "--num-images", 27, "--batch", 4, "--shard-batches", 2, "--out", folder)[0] == 0
