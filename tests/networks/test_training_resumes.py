"""A training run that is interrupted and resumed ends with the weights of an unbroken run."""

import argparse
import os
import signal

import train_networks as train
from safetensors.torch import load_file


def options(folder, steps):
    return argparse.Namespace(
        network="digits", steps=steps, batch=8, rate=1e-3, average=0.5, seed=0, device="cpu", data=None,
        checkpoint=folder / "digits.ckpt", out=folder / "digits.safetensors",
    )  # fmt: skip


def test_training_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    train.train(options(whole, steps=6))

    real, calls = train.UNet.forward, 0

    def interrupted(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *arguments)

    monkeypatch.setattr(train.UNet, "forward", interrupted)
    train.train(options(broken, steps=6))
    assert not (broken / "digits.safetensors").exists()
    assert "stopped after 4 steps" in capsys.readouterr().out
    train.train(options(broken, steps=6))
    assert calls == 6
    one, two = (load_file(folder / "digits.safetensors") for folder in (whole, broken))
    assert all((one[name] == two[name]).all() for name in one)
