"""The two sets share nothing, their networks are there, and the grids and peers are what their names say."""

import comfyui
import networks
import numpy as np
import peers
import pytest
import sets
import torch
from network_recipes import NETWORKS

from pndm_solvers import PLMSSolver, Prediction, initial_noise
from pndm_solvers.problems import exact_problem
from pndm_solvers.schedules import SCHEDULES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers


def test_the_sets_share_no_problem_and_no_starts():
    choosing, testing = (sets.SETS[name] for name in ("choosing", "testing"))
    assert not choosing.keys() & testing.keys()
    assert len(choosing) >= 28
    assert len(testing) >= 18
    assert sets.SEEDS["choosing"] != sets.SEEDS["testing"]
    assert not set(sets.EXACT["choosing"]) & set(sets.EXACT["testing"])
    for name in ("hsc-64", "ztf-64", "lsst-60", "quasar-72", "21cm", "spirals", "audio", "trajectories", "digits-conv"):
        assert name in testing
    for name in ("digits", "fashion", "hsc-32", "ztf-32"):
        assert name in choosing


def samples_of(found, count, **options):
    x = torch.from_numpy(initial_noise((count, *found.shape), 5)).float()
    plan = PLMSSolver(found.schedule).plan(20, **options)
    drawn = plan.run(found.network, x, prediction=found.prediction, condition=found.condition(count))
    return drawn.double().numpy()


@pytest.mark.parametrize("name", [name for name, of in NETWORKS.items() if of.schedule and of.set != "large"])
def test_every_trained_network_samples_its_data(name):
    """From σ/α = 10, where none of their errors is multiplied by much, samples lie near the data."""
    found = networks.load(name)
    assert found.set in sets.SETS
    assert name in sets.SETS[found.set]
    samples, data = samples_of(found, 64, start=found.schedule.level_at(10.0).t), found.data()
    assert data.shape[1:] == found.shape
    distance = np.abs(samples.reshape(64, 1, -1) - data.reshape(1, len(data), -1)[:, :1500]).max(2).min(1)
    spread = np.abs(data - data.mean(0)).max()
    assert np.median(distance) < 0.8 * spread


@pytest.mark.parametrize("name", sets.SETS["large"])
def test_networks_of_large_pictures_draw_pictures_as_wide_and_as_rough_as_their_data(name):
    """Such pictures lie far from one another, so near the data would say little."""
    found = networks.load(name)
    samples, data = samples_of(found, 16, prediction=found.prediction, sample_shape=found.shape), found.data()
    for measure in (np.std, lambda x: np.std(np.diff(x))):
        assert 0.6 < measure(samples) / measure(data) < 1.6


def test_features_are_those_of_a_classifier():
    assert networks.accuracy("classifier-digits") > 0.95
    for name, pixels in (("digits", 64), ("fashion", 784)):
        images = np.random.default_rng(0).uniform(-1, 1, (5, pixels))
        assert networks.load_features(name)(images).shape == (5, 32)


def test_a_half_is_compared_as_a_problem_of_its_size():
    problem = exact_problem("ring", SCHEDULES["linear"](), 40)
    half = sets.first_starts(problem, 20)
    assert len(half.target().points) == 20
    np.testing.assert_allclose(half.reference().ends, problem.reference().ends[:20], atol=1e-6)


# ------------------------------------------------------------------ grids of other programs


SAMPLINGS = {
    "Stable Diffusion": comfyui.discrete(SCHEDULES["scaled_linear"]()),
    "SD3 flow": comfyui.discrete_flow(),
    "Flux": comfyui.flux(),
}


@pytest.mark.parametrize("family", SAMPLINGS)
@pytest.mark.parametrize("name", comfyui.SCHEDULERS)
def test_given_grids_fall_to_zero_and_a_half_begins_lower(family, name):
    full, half = (comfyui.given_sigmas(SAMPLINGS[family], name, 20, denoise) for denoise in (1.0, 0.5))
    for sigmas in (full, half):
        assert sigmas[-1] == 0
        assert (np.diff(sigmas) < 0).all()
        assert 15 <= len(sigmas) <= 22
    assert half[0] < full[0]


# ------------------------------------------------------------------ peers


def test_peers_on_their_grid_make_no_more_calls_than_allowed():
    problem = exact_problem("gaussian", SCHEDULES["linear"](), 4)
    x = torch.from_numpy(problem.x)
    names = [name for name in peers.PEERS if not name.startswith("k-diffusion")]
    for name in names[::12]:
        calls = []

        def model(x, t, calls=calls):
            calls.append(1)
            return torch.from_numpy(problem.model(x.numpy(), t.numpy()))

        found = peers.traced_run(peers.PEERS[name], problem.schedule, model, x, 20)
        assert found.calls == len(calls) <= 20, name
        assert found.final in ("clean", "first")


def test_a_peer_on_a_continuous_schedule_and_with_clipping_follows_the_flow():
    """diffusers' DDIM is ours on a table view of the schedule."""
    schedule = SCHEDULES["vp"]()
    problem = exact_problem("gaussian", schedule, 16)
    peer = peers.PEERS["DPMSolverMultistep solver_order=2 final_sigmas_type=zero trailing"]

    def model(x, t):
        return torch.from_numpy(problem.model(x.numpy(), t.numpy()))

    x = torch.from_numpy(problem.x)
    for prediction in (Prediction(), Prediction("epsilon", clip=100.0)):
        found = peers.traced_run(peer, schedule, model, x, 50, prediction)
        reference = problem.reference(found.start_t, final=found.final)
        assert np.median(reference.errors(found.result.numpy())) < 0.02
    low = schedule.level_at(10.0).t
    found = peers.traced_run(peer, schedule, model, x, 50, start=low)
    assert found.start_t <= low * (1 + 1e-9)
