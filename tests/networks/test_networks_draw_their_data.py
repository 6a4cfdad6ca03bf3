"""The bundled networks: their files and cards, and samples with the statistics of the data."""

from importlib.resources import files

import network_data as data
import numpy as np
import pytest
import torch
from train_networks import NETWORKS

from pndm_solvers import DDIMSolver, PLMSSolver, PNDMSolver, initial_noise
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.reference import NETWORK_NAMES, load_network


@pytest.fixture(scope="module", params=NETWORK_NAMES)
def network(request):
    return load_network(request.param)


def test_the_file_describes_the_network_that_the_script_trains(network):
    facts = NETWORKS[network.name]
    assert network.prediction == facts["prediction"]
    assert list(network.labels) == facts["labels"]
    assert network.shape == (1, facts["architecture"]["size"], facts["architecture"]["size"])


def test_weights_and_cards_are_small_and_complete():
    folder = files("pndm_solvers.reference")
    assert sum(len((folder / f"{name}.safetensors").read_bytes()) for name in NETWORK_NAMES) <= 4_000_000
    for name in NETWORK_NAMES:
        card = (folder / f"{name}.md").read_text(encoding="utf-8")
        for heading in ("Data", "Licence", "Architecture", "Training", "Loss"):
            assert f"**{heading}" in card, (name, heading)


def test_a_network_is_a_model(network):
    x = torch.from_numpy(initial_noise((3, *network.shape), seed=0)).float()
    with torch.inference_mode():
        whole = network(x, torch.tensor([10, 500, 999]))
        real = network(x, torch.tensor([10.0, 500.0, 999.0]))
        alone = network(x[1:2], torch.tensor([500]))
    assert whole.shape == x.shape
    torch.testing.assert_close(whole, real)
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-3, atol=1e-4)


def test_the_digits_network_has_learnt_its_data():
    """Its loss on the data is far below the loss of an untrained network, which is 1."""
    network = load_network("digits")
    images = torch.from_numpy(data.digits()[0][:512])
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(len(images), generator=generator) * 999
    noise = torch.randn(images.shape, generator=generator)
    alpha, sigma = (
        torch.tensor(f(t.numpy())).float()[:, None, None, None]
        for f in (network.schedule.alpha, network.schedule.sigma)
    )
    a, b = PREDICTIONS[network.prediction](alpha, sigma)
    with torch.inference_mode():
        answer = network(alpha * images + sigma * noise, t)
    assert ((answer - (a * images + b * noise)) ** 2).mean() < 0.08


def test_samples_of_digits_have_the_statistics_of_the_data():
    network, images = load_network("digits"), data.digits()[0]
    x = torch.from_numpy(initial_noise((64, *network.shape), seed=0)).float()
    with torch.inference_mode():
        samples = PLMSSolver(network.schedule).sample(network, x, 20, prediction=network.prediction).numpy()
    assert np.quantile(np.abs(samples), 0.99) < 1.25
    assert np.abs(samples.mean(0) - images.mean(0)).mean() < 0.1
    assert np.abs(samples.std(0) - images.std(0)).mean() < 0.1


# The mean pixel of each class of the training images of Fashion-MNIST, and the standard deviation of all pixels.
FASHION_MEANS = [-0.35, -0.55, -0.25, -0.48, -0.23, -0.73, -0.34, -0.66, -0.29, -0.40]
FASHION_DEVIATION = 0.706


def test_samples_of_fashion_have_the_statistics_of_the_data():
    """Each class has the brightness of its garments, and all classes together have the spread of the data."""
    network = load_network("fashion")
    x = torch.from_numpy(initial_noise((80, *network.shape), seed=0)).float()
    label = torch.arange(80) % 10
    with torch.inference_mode():
        samples = PLMSSolver(network.schedule).sample(network.model(label), x, 20, prediction=network.prediction)
    means = [samples[label == k].mean().item() for k in range(10)]
    assert np.abs(np.array(means) - FASHION_MEANS).mean() < 0.08
    assert samples.std().item() == pytest.approx(FASHION_DEVIATION, abs=0.05)
    assert samples.abs().quantile(0.99).item() < 1.25


def test_fewer_calls_at_the_same_error(network):
    """The purpose of the family: at 20 calls PLMS is far nearer to the network's limit than DDIM."""
    x = torch.from_numpy(initial_noise((4, *network.shape), seed=1)).float()
    schedule = network.schedule

    def sample(solver, calls):
        with torch.inference_mode():
            return solver.sample(network, x, max_model_calls=calls, spacing="quadratic", prediction=network.prediction)

    limit = sample(PNDMSolver(schedule), 100)
    ddim, plms = (sample(solver, 20) for solver in (DDIMSolver(schedule), PLMSSolver(schedule)))
    assert (plms - limit).pow(2).mean() < 0.5 * (ddim - limit).pow(2).mean()


def test_guidance_needs_classes_that_exist():
    digits, fashion = load_network("digits"), load_network("fashion")
    with pytest.raises(ValueError, match="has no classes"):
        digits.model(torch.tensor([1]))
    with pytest.raises(ValueError, match="0 to 9"):
        fashion.model(torch.tensor([10]))
    x, t = torch.randn(2, *fashion.shape), torch.tensor([500, 500])
    with torch.inference_mode():
        label = torch.tensor([3, 7])
        guided = fashion.model(label, guidance=2.0)(x, t)
        expected = 2 * fashion.unet(x, t, label) - fashion(x, t)
    torch.testing.assert_close(guided, expected)


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="bundled are 'digits', 'fashion'"):
        load_network("cats")


def test_missing_data_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        data.fashion(tmp_path)
