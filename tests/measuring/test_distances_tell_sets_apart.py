"""Distances of sets: closed forms, floors, and samplers that collapse, drift or are equal."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SCHEDULES
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver
from pndm_solvers.distances import Target, frechet, resampled, sliced_wasserstein
from pndm_solvers.measure import MEASURES, compare, difference, estimate
from pndm_solvers.problems import exact_problem

LINEAR = SCHEDULES["linear"]
DRAW = np.random.default_rng(0).standard_normal
DISTRIBUTIONS = list(MEASURES)[1:]


def test_one_direction_is_the_wasserstein_distance_of_the_line():
    """SciPy has the first distance; the second of shifted and scaled sets has closed forms."""
    a, b = DRAW((50, 1)), DRAW((50, 1))
    squares = np.mean((np.sort(a[:, 0]) - np.sort(b[:, 0])) ** 2)
    assert sliced_wasserstein(a, b) == pytest.approx(squares)
    assert sliced_wasserstein(a, b) >= wasserstein_distance(a[:, 0], b[:, 0]) ** 2
    assert sliced_wasserstein(a, a + 3) == pytest.approx(9)
    assert sliced_wasserstein(a, -2 * a[::-1]) == pytest.approx(
        np.mean((np.sort(a[:, 0]) - np.sort(-2 * a[:, 0])) ** 2)
    )


@pytest.mark.parametrize(("n", "m"), [(1, 5), (4, 6), (7, 3), (10, 10)])
def test_sets_of_different_sizes_are_compared_by_their_quantiles(n, m):
    """As if each point were repeated until both sets have n·m points."""
    a, b = DRAW((n, 3)), DRAW((m, 3))
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(a.repeat(m, 0), b.repeat(n, 0)))
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a))


def test_a_shift_counts_by_its_share_in_a_direction():
    """In d dimensions a shift of length 1 has a mean square of 1/d along random directions."""
    a, shift = DRAW((100, 20)), np.eye(20)[0]
    assert sliced_wasserstein(a, a + shift, directions=4000) == pytest.approx(1 / 20, rel=0.1)


def test_frechet_is_the_formula_and_knows_gaussians():
    a, b = DRAW((40, 3)), DRAW((60, 3)) * [1, 2, 0.5] + 1
    covariances = np.cov(a.T), np.cov(b.T)
    root = sqrtm(covariances[0] @ covariances[1])
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))
    assert frechet(a, b) == pytest.approx(expected)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet(a, a + np.array([2, 0, 0])) == pytest.approx(4)


def test_frechet_of_few_points_in_many_dimensions_is_the_same():
    a, b = DRAW((6, 9)), 2 * DRAW((8, 9)) + 1
    covariances = np.cov(a.T), np.cov(b.T)
    values, axes = np.linalg.eigh(covariances[1])
    half = axes * np.sqrt(np.maximum(values, 0)) @ axes.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ covariances[0] @ half), 0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * shared
    assert frechet(a, b) == pytest.approx(expected)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_nearest_distances_go_both_ways():
    target = Target([[0.0, 0.0], [3.0, 4.0]])
    to_target, back = target.nearest([[0.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(to_target, [0, 2**0.5])
    np.testing.assert_allclose(back, [0, (13 / 2) ** 0.5])


def test_sets_of_another_width_are_refused():
    with pytest.raises(ValueError, match="2 numbers each and the target's 3"):
        sliced_wasserstein(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"of shape \(3,\)"):
        Target([1.0, 2.0, 3.0])


def test_the_bootstrap_has_the_deviation_of_a_mean():
    values = DRAW(400)
    means = resampled(lambda chosen: float(values[chosen].mean()), 400, resamples=2000)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.1)


# ------------------------------------------------------------------ samplers

PROBLEM = exact_problem("ring", LINEAR, 512)
ENDS = PROBLEM.reference().ends


def figures(samples):
    return {measure: estimate(PROBLEM, samples, None, measure) for measure in DISTRIBUTIONS}


def test_a_collapsed_sampler_is_told_from_the_flow():
    """It draws one mode of eight. Each of its samples looks right: only the way back from the data shows it."""
    collapsed = ENDS[np.argsort(np.hypot(*(ENDS - [0.8, 0]).T))[:64]].repeat(8, 0)
    flow, one = figures(ENDS), figures(collapsed)
    assert abs(flow["sliced-wasserstein"].value) < 0.02 < one["sliced-wasserstein"].value
    assert one["frechet"].value > 20 * flow["frechet"].value
    assert one["nearest-data"].value < 1.2 * flow["nearest-data"].value
    assert one["nearest-sample"].value > 10 * flow["nearest-sample"].value


def test_a_blurred_sampler_is_far_from_the_data():
    blurred = figures(ENDS + 0.3 * DRAW(ENDS.shape))
    flow = figures(ENDS)
    assert blurred["nearest-data"].value > 2 * flow["nearest-data"].value
    assert blurred["sliced-wasserstein"].value > abs(flow["sliced-wasserstein"].value)


def test_equal_samplers_come_out_equal():
    for measure in MEASURES:
        found = difference(PROBLEM, ENDS, ENDS.copy(), measure)
        assert (found.value, found.low, found.high) == (0, 0, 0), measure


def test_a_paired_interval_is_narrower_than_that_of_each_alone():
    """The starts that both samplers share cancel."""
    other = DDIMSolver(LINEAR).plan(20).run(PROBLEM.model, PROBLEM.x)
    for measure in ("sliced-wasserstein", "nearest-data"):
        alone, both = estimate(PROBLEM, other, None, measure), difference(PROBLEM, other, ENDS, measure)
        assert both.high - both.low < 0.7 * (alone.high - alone.low), measure
        assert both.low <= both.value <= both.high


def test_the_floor_is_that_of_the_flow_in_the_mean():
    """SW² of the flow's samples, less its floor, is about 0 over many sets of starts, and without it is not."""
    found = []
    for seed in range(8):
        problem = exact_problem("gaussian", LINEAR, 128, seed=seed)
        found.append(estimate(problem, problem.reference().ends, None, "sliced-wasserstein").value / problem.floor())
    assert abs(np.mean(found)) < 0.5


def test_the_floor_of_few_data_is_that_of_more():
    """With 300 points of data sets of 200 and 200 cannot be disjoint: smaller ones are scaled."""
    many = exact_problem("gaussian", LINEAR, 200)
    few = replace(many, data=many.data[:300])
    assert few.floor() == pytest.approx(many.floor(), rel=0.25)


def test_stochastic_solvers_take_part_where_sets_are_compared():
    few, many = (
        compare(PROBLEM, [DDPMSolver(LINEAR)], ["trailing"], [calls], measure="sliced-wasserstein")[0].value[0]
        for calls in (5, 100)
    )
    assert abs(many) < few / 5


def test_samples_that_are_not_finite_are_infinitely_far():
    broken = ENDS.copy()
    broken[3] = np.nan
    assert all(found.value == np.inf for found in figures(broken).values())


def test_a_low_start_is_judged_by_the_distribution_and_not_by_its_own_reference():
    """A run from σ/α = 0.2 follows the flow from there closely, and draws from another distribution."""
    low = LINEAR.level_at(0.2).t

    def from_low(schedule, steps, end):
        return np.linspace(low, 0, steps)

    curves = {
        measure: compare(PROBLEM, [PLMSSolver(LINEAR)], ["balanced", from_low], [20], measure=measure)
        for measure in ("paired", "sliced-wasserstein")
    }
    balanced, lower = (curve.value[0] for curve in curves["paired"])
    assert lower < 100 * balanced
    balanced, lower = (curve.value[0] for curve in curves["sliced-wasserstein"])
    assert lower > 5 * abs(balanced)
    assert curves["paired"][1].spacing == "from_low"
