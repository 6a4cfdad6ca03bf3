"""All steps of a run can share one Brownian path, which is a function of its address and the level."""

import itertools
import math

import numpy as np
import pytest
import torch
import torchsde
from scipy import stats

from pndm_solvers import noise
from pndm_solvers.brownian import _weights, brownian_increment
from pndm_solvers.noise import NoiseSource
from pndm_solvers.table import Span

LARGEST = math.nextafter(math.inf, 0)


def grid(rng, low, high, levels):
    """Levels spread over the octaves between low and high."""
    return sorted(low * math.exp(rng.random() * math.log(high / low)) for _ in range(levels))


GRIDS = [
    [0.0, 2.0**-70, 1e-10, 1e-4, 0.5, 1.0, 1.0 + 2**-19, 1.5, 2.0 - 2**-19, 2.0, 2.0 + 2**-18, 1e5, 1e12],
    [1e-300, 1e-299, 1e-250, 1e-9, 1e200, 1e300, 1.1e300, LARGEST],
    [0.0, 1e-300, 1.0],
    [0.0, LARGEST],
    [1.0 + k * 1e-6 for k in range(40)],  # a little more than 2^-20
    [1.0 + k / 1000 for k in range(40)],
    *(grid(np.random.default_rng(n), 1e-10, 1e6, 2 + 3 * n) for n in range(12)),
    *(grid(np.random.default_rng(n), 0.4, 3.0, 2 + 3 * n) for n in range(12)),
]
# Floats beside one another, at a border of octaves, at both ends of the line, and within a leaf of the tree.
CLOSE = [
    (math.nextafter(v, 0), v, math.nextafter(v, math.inf))
    for v in (1.0, 2.0, 0.77, 1e-10, 1e300, 2.0**-1022, 5e-324, math.nextafter(LARGEST, 0))
]


@pytest.mark.parametrize("levels", GRIDS)
def test_the_law_is_exact(levels):
    """An increment is Σ wᵢ·zᵢ with normals zᵢ, so its covariances are sums of products of the wᵢ."""
    steps = [(_weights(start, end), math.sqrt(end - start)) for start, end in itertools.pairwise(levels)]
    for weights, deviation in steps:
        assert math.fsum((w / deviation) ** 2 for w in weights.values()) == pytest.approx(1, rel=1e-13)
    for (one, one_deviation), (other, other_deviation) in itertools.combinations(steps, 2):
        products = ((one[n] / one_deviation) * (other[n] / other_deviation) for n in one.keys() & other.keys())
        assert abs(math.fsum(products)) < 1e-12


@pytest.mark.parametrize(
    ("start", "middle", "end"), [*CLOSE, *(tuple(levels[:3]) for levels in GRIDS if len(levels) > 2)]
)
def test_the_path_is_a_function_of_the_level(start, middle, end):
    """Its increments add up at any two levels, however close: no increment sees another path."""
    first, second, both = _weights(start, middle), _weights(middle, end), _weights(start, end)
    largest = max(map(abs, (*first.values(), *second.values())))
    for node in first.keys() | second.keys() | both.keys():
        together = first.get(node, 0) + second.get(node, 0)
        assert together == pytest.approx(both.get(node, 0), rel=1e-12, abs=1e-12 * largest)


@pytest.mark.parametrize("levels", GRIDS)
def test_increments_add_up(levels):
    scale = math.sqrt(levels[-1] - levels[0])
    parts = sum(
        math.sqrt(end - start) / scale * brownian_increment(3, 1, 2, (2, 3), start, end)
        for start, end in itertools.pairwise(levels)
    )
    whole = brownian_increment(3, 1, 2, (2, 3), levels[0], levels[-1])
    assert whole.dtype == np.float64
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-12)


def test_an_increment_depends_on_its_arguments_alone():
    steps = [(0.0, 1e-4), (1e-4, 0.3), (0.3, 0.31), (0.3, 0.7), (0.7, 1e5)]
    first = [brownian_increment(5, 0, 0, (4,), *step) for step in steps]
    np.random.default_rng(0).standard_normal()
    again = [brownian_increment(5, 0, 0, (4,), *step) for step in reversed(steps)]
    assert np.array_equal(first, again[::-1])
    # As for other noise: a larger picture begins with the numbers of a smaller one.
    assert np.array_equal(brownian_increment(5, 0, 0, (2, 4), 0.3, 0.7)[0], first[3])


def test_draws_are_standard_normal_and_independent():
    """Disjoint steps, other seeds, samples and falls, and the rows of ordinary noise, have nothing in common."""
    levels, size = [0.0, 1e-9, *np.geomspace(1e-4, 1e4, 30).tolist(), 1e4 * (1 + 1e-5)], 10_000
    draws = [brownian_increment(0, 0, 0, (size,), *step) for step in itertools.pairwise(levels)]
    addresses = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (2**40, 0, 0), (0, 0, 2)]
    draws += [brownian_increment(*address, (size,), 0.3, 0.7) for address in addresses]
    draws += [NoiseSource(0).draw(row, np.empty((2, size)))[sample] for row in range(2) for sample in range(2)]
    # Floats beside one another share a leaf of the tree: the step has the law of any other.
    draws += [brownian_increment(9 + n, 0, 0, (size,), *close[1:]) for n, close in enumerate(CLOSE)]
    for z in draws:
        assert abs(z.mean()) < 4 / math.sqrt(size)
        assert abs(z.var() - 1) < 4 * math.sqrt(2 / size)
        assert stats.kstest(z, "norm").pvalue > 1e-3
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / math.sqrt(size)
    # Nor are the sizes of z related, as they would be if steps shared a draw up to its sign.
    assert np.abs(np.corrcoef(np.square(draws)) - np.eye(len(draws))).max() < 5 / math.sqrt(size)


def test_increments_that_overlap_are_correlated():
    one, other = brownian_increment(0, 0, 0, (20_000,), 0.0, 0.9), brownian_increment(0, 0, 0, (20_000,), 0.5, 2.1)
    expected = (0.9 - 0.5) / math.sqrt(0.9 * 1.6)
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(expected, abs=4 / math.sqrt(20_000))


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_levels_in_the_wrong_order_are_refused(start, end):
    with pytest.raises(ValueError, match="0 <= start < end"):
        brownian_increment(0, 0, 0, (1,), start, end)


class Path(torchsde.BaseBrownian):
    """One of our paths, as torchsde's solvers call it."""

    shape, dtype, device, levy_area_approximation = (1, 100), torch.float64, torch.device("cpu"), "none"

    def __call__(self, ta, tb=None, return_U=False, return_A=False):  # noqa: N803
        start, end = float(ta), float(tb)
        return torch.from_numpy(math.sqrt(end - start) * brownian_increment(4, 0, 0, self.shape, start, end))

    def __repr__(self):
        return "Path()"


class GeometricBrownianMotion(torch.nn.Module):
    """dX = μX dt + sX dB."""

    noise_type, sde_type, mu, s = "diagonal", "ito", 0.3, 0.6

    def f(self, t, x):
        return self.mu * x

    def g(self, t, x):
        return self.s * x


@pytest.mark.parametrize(("method", "order"), [("euler", 0.5), ("milstein", 1.0)])
def test_torchsde_converges_along_the_path(method, order):
    """Their solvers approach the closed form for this same path, at their strong order."""
    sde, path, (start, end) = GeometricBrownianMotion(), Path(), (0.5, 2.0)
    exact = torch.exp((sde.mu - sde.s**2 / 2) * (end - start) + sde.s * path(start, end))

    def error(steps):
        x = torchsde.sdeint(
            sde, torch.ones(Path.shape, dtype=torch.float64), [start, end], path, method, dt=(end - start) / steps
        )
        return float((x[-1].detach() - exact).square().mean().sqrt() / exact.square().mean().sqrt())

    coarse, fine = error(16), error(256)
    assert fine < {"euler": 0.03, "milstein": 0.003}[method]
    assert math.log(coarse / fine, 16) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("levels", GRIDS)
def test_what_an_earlier_step_drew_changes_no_bit(levels):
    drawn = {}
    for start, end in itertools.pairwise(levels):
        plain = brownian_increment(3, 1, 0, (5,), start, end)
        np.testing.assert_array_equal(brownian_increment(3, 1, 0, (5,), start, end, drawn), plain)
        assert drawn


def test_runs_that_keep_what_they_drew_have_the_bits_of_those_that_do_not(monkeypatch):
    like, spans = np.zeros((3, 4)), [Span(0, *ends) for ends in itertools.pairwise(GRIDS[0])] + [Span(1, 0.5, 1.0)]
    for seed in (7, (7, 8, 7)):
        source = NoiseSource.of(seed, None, "brownian")
        kept = [source.draw(row, like, span) for row, span in enumerate(spans)]
        monkeypatch.setattr(noise, "MOST_KEPT", 0)
        plain = [source.draw(row, like, span) for row, span in enumerate(spans)]
        monkeypatch.undo()
        np.testing.assert_array_equal(kept, plain)
