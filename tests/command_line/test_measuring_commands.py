"""`pndm-solvers plan`, `order` and `compare` print, plot and export what the library computes."""

import json

import diffusers
import numpy as np
import pytest
from PIL import Image
from run_command import runner
from tiny_unet import tiny_unet

from pndm_solvers import DDIMSolver, NoiseSchedule, Plan, PNDMSolver, cli
from pndm_solvers.measure import STANDARD, Curve, compare
from pndm_solvers.problems import exact_problem


@pytest.fixture
def run(capsys, monkeypatch):
    return runner(capsys, monkeypatch)


def test_plan_prints_and_exports(run):
    status, out, _ = run("plan", "--solver", "pndm", "--steps", 6)
    assert status == 0
    assert out.startswith("F-PNDM: 15 model calls")
    status, out, _ = run("plan", "--solver", "pndm", "--steps", 6, "--json")
    assert Plan.from_json(out) == PNDMSolver(NoiseSchedule.linear()).plan(6)
    assert run("plan", "--calls", 7, "--schedule", "rectified_flow", "--final", "first")[0] == 0
    assert run("plan", "--solver", "ddim", "--steps", 4, "--start", 0, "--stop", 999)[0] == 0


def test_plan_reads_a_config(run, tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}))
    assert run("plan", "--schedule", path)[1] == run("plan", "--schedule", "scaled_linear")[1]


def test_order_prints_plots_and_exports(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("order", "--steps", "10,20", "--steps", 40, "--solver", "ddim,pndm", "--grid", "graded")
    assert status == 0
    lines = out.splitlines()
    assert lines[1].split() == ["solver", "declared", "observed", "10", "20", "40"]
    assert [line.split()[:2] for line in lines[2:4]] == [["DDIM", "1"], ["F-PNDM", "2"]]
    assert "gaussian" in err
    with Image.open(tmp_path / "order.png") as picture:
        assert min(picture.size) > 400


def test_compare_prints_plots_and_exports(run, tmp_path):
    path = tmp_path / "a.png"
    command = ("compare", "--calls", "2,6", "--calls", 12, "--solver", "ddim", "--solver", "plms", "--starts", 3)
    command += ("--spacing", "trailing,karras", "--problem", "power-law", "--schedule", "cosine")
    status, out, _ = run(*command, "--out", path)
    assert status == 0
    lines = out.splitlines()
    assert lines[1].split() == ["solver,", "spacing", "2", "6", "12"]
    assert len({len(line.rstrip("* ")) // 4 for line in lines[2:6]}) == 1
    assert "\n".join(lines[2:6]).count("*") == 3
    assert path.exists()
    path.unlink()

    status, out, _ = run(*command, "--json")
    document = json.loads(out)
    assert not path.exists()
    assert (document["problem"], document["schedule"], document["starts"]) == ("power-law", "cosine", 3)
    problem = exact_problem("power-law", NoiseSchedule.cosine(), starts=3)
    (curve,) = compare(problem, [DDIMSolver(problem.schedule)], ["karras"], [2, 6, 12])
    assert Curve(**{k: tuple(v) if isinstance(v, list) else v for k, v in document["curves"][1].items()}) == curve


def test_json_has_no_infinity(run):
    status, out, _ = run(
        "compare", "--schedule", "trigonometric", "--calls", 3, "--starts", 2, "--spacing", "log_snr", "--json"
    )
    assert status == 0
    assert [curve["value"] for curve in json.loads(out)["curves"]] == [[None]] * len(STANDARD)


def test_order_as_json(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = json.loads(run("order", "--steps", "10,20", "--solver", "plms", "--json")[1])
    (found,) = document["solvers"]
    assert (document["grid"], found["name"], found["steps"]) == ("uniform", "PLMS 4 (exact, ramp)", [10, 20])
    assert not list(tmp_path.iterdir())
    assert run("order", "--steps", "10,20", "--solver", "ddim", "--json", "--out", "b.png")[0] == 0
    assert (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("measuring", "command"),
    [
        ("observed_order", ("order", "--steps", "10,20")),
        ("compare", ("compare", "--calls", "4", "--starts", 2)),
        ("compare", ("compare", "--calls", "4", "--starts", 2, "--json")),
    ],
)
def test_an_interrupted_measurement_gives_what_is_finished(run, tmp_path, monkeypatch, measuring, command):
    seen, measure = [], getattr(cli.measure, measuring)

    def once(*arguments, **options):
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        return measure(*arguments, **options)

    monkeypatch.setattr(cli.measure, measuring, once)
    status, out, err = run(*command, "--out", tmp_path / "a.png")
    assert status == 130
    assert "DDIM" in out or "PLMS" in out
    assert "interrupted: 1 of" in err
    assert (tmp_path / "a.png").exists()


def test_compare_measures_distributions_and_stochastic_solvers(run, tmp_path):
    command = ("compare", "--problem", "gaussian", "--starts", 64, "--calls", "5,10", "--solver", "ddim,ddpm")
    status, out, _ = run(*command, "--measure", "sliced-wasserstein", "--out", tmp_path / "a.png")
    assert status == 0
    assert "gaussian: sliced-wasserstein to the data, 64 samples" in out
    assert "DDPM" in out
    status, _, err = run(*command)  # a stochastic solver has no paired error
    assert status == 1
    assert "ddpm" in err


def test_compare_keeps_the_fine_runs_of_a_saved_network(run, tmp_path):
    folder, saved = tmp_path / "tiny", tmp_path / "fine.npz"
    diffusers.DDPMPipeline(tiny_unet(num_class_embeds=3), diffusers.DDPMScheduler()).save_pretrained(folder)
    command = ("compare", "--model", folder, "--starts", 2, "--calls", "4", "--solver", "ddim", "--saved", saved)
    status, out, err = run(*command, "--out", tmp_path / "a.png")
    assert status == 0, err
    assert "tiny: root-mean-square distance to the end of a fine run, median of 2 starts" in out
    assert "the fine run itself errs by about" in out
    assert "tiny: fine run 1 of 2" in err
    assert "tiny: fine run 2 of 2" in err
    assert "tiny: a reference of 512 model calls" in err
    status, again, err = run(*command, "--out", tmp_path / "a.png")
    assert (status, again) == (0, out)
    assert "a reference of" not in err


def test_compare_takes_data(run, tmp_path):
    np.save(tmp_path / "data.npy", np.zeros((5, 2)))
    status, _, err = run("compare", "--problem", "ring", "--data", tmp_path / "data.npy")
    assert status == 1
    assert "--data and --saved are for networks" in err
    status, _, err = run("compare", "--problem", "digits", "--data", tmp_path / "data.npy")
    assert status == 1
    assert "beyond the batch they must be alike" in err


def test_data_that_cannot_be_read(run, tmp_path):
    text, whole, several = (tmp_path / name for name in ("text.npy", "whole.npy", "several.npz"))
    text.write_text("no array")
    np.save(whole, np.zeros((5, 1, 8, 8), int))
    np.savez(several, a=np.zeros(3))
    for path, message in ((text, "which is no .npy file"), (whole, "an array of int64"), (several, "several arrays")):
        status, _, err = run("compare", "--problem", "digits", "--data", path)
        assert status == 1
        assert f"--data is {path}" in err
        assert message in err


def test_a_curve_that_diverges_is_cut_off(run, tmp_path, monkeypatch):
    """The plot ends where the curves end that do not diverge, and the legend says which one is not seen."""
    from pndm_solvers import plots

    figures = []
    plot = plots.plot_curves
    monkeypatch.setattr(plots, "plot_curves", lambda *given: figures.append(plot(*given)) or figures[-1])
    command = ("compare", "--solver", "ddim,pndm", "--spacing", "trailing", "--schedule", "cosine", "--starts", 4)
    status, out, err = run(*command, "--calls", "5,10", "--out", tmp_path / "a.png")
    assert status == 0, err
    best, worst = (float(row.split()[2].rstrip("*")) for row in out.splitlines()[2:4])
    assert worst > 1e6 * best
    (axes,) = figures[0].axes
    assert best < axes.get_ylim()[1] < 10 * best
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["F-PNDM, trailing: off the plot", "DDIM, trailing"]


def test_compare_refuses_what_contradicts(run, tmp_path):
    for options, message in (
        (("--problem", "ring", "--model", tmp_path), "pass --problem or --model, not both"),
        (("--model", tmp_path, "--schedule", "linear"), "has its own schedule"),
        (("--measure", "fid"), "--measure is 'fid'; known are paired"),
    ):
        status, _, err = run("compare", *options)
        assert status == 1
        assert message in err
