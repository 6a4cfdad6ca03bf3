"""benchmarks/bad_calls.py finds no failure, and can find each kind of failure."""

import bad_calls as judge
import numpy as np


def test_every_good_call_gives_the_right_answer():
    """Otherwise a bad call made of it would fail for another reason than its wrong argument."""
    calls = list(judge.good_calls())
    assert calls
    assert [call.name for call in calls if judge.outcome(call, {}) != "the right answer"] == []


def test_no_bad_call_passes_in_silence():
    """Three hundred of the 10,000 calls of the benchmark."""
    assert judge.main(300, seed=5)["FAILED"] == 0


def test_the_judge_condemns_each_kind_of_failure(monkeypatch):
    def verdict(function, eta, **options):
        return judge.outcome(judge.Good("f", function, {"eta": 0.5}), {"eta": eta}, **options)

    assert verdict(lambda eta: eta * 2, np.array(0.25)) == "the right answer"
    assert verdict(lambda eta: eta * 2, "0.5", strange=True).startswith("FAILED: accepted in silence")
    assert verdict(lambda eta: 1 / eta, 0.0).startswith("FAILED: raw")
    assert verdict(lambda eta: float(eta), "abc").startswith("FAILED: raw")
    assert verdict(lambda eta: eta * float("inf") * 0, 1.0).startswith("FAILED: not finite")
    assert verdict(lambda eta: np.log(np.float64(eta)), 0.0).startswith("FAILED: no more than a warning")
    assert verdict(lambda eta: isinstance(eta, float), np.array(0.5)).startswith("FAILED: another answer")
    monkeypatch.setattr(judge, "SECONDS", 0.05)
    assert verdict(lambda eta: [None for _ in iter(int, 1)], 1.0).startswith("FAILED: over")


def test_a_message_must_name_an_argument():
    """An error of the library is right where the argument has the name in the message, and condemned elsewhere."""
    grid = judge.good(judge.ps.make_grid, num_inference_steps=10)
    assert judge.outcome(grid, {"num_inference_steps": 2.5}) == "ValueError"
    renamed = judge.Good("f", lambda eta: judge.ps.make_grid(judge.LINEAR, eta), {"eta": 10})
    assert judge.outcome(renamed, {"eta": 2.5}).startswith("FAILED: names no argument")
