"""The weights of a multistep method are the integrals of Lagrange's polynomials, on even steps and on any others."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from pndm_solvers import adams_bashforth
from pndm_solvers.methods.adams import exact_weights
from pndm_solvers.rule import RULE

# Weights of Adams–Bashforth, the newest evaluation first: Hairer, Nørsett and Wanner, Solving ODEs I, section III.1.
BOOK = {
    1: [Fraction(1)],
    2: [Fraction(n, 2) for n in (3, -1)],
    3: [Fraction(n, 12) for n in (23, -16, 5)],
    4: [Fraction(n, 24) for n in (55, -59, 37, -9)],
    5: [Fraction(n, 720) for n in (1901, -2774, 2616, -1274, 251)],
    6: [Fraction(n, 1440) for n in (4277, -7923, 9982, -7298, 2877, -475)],
}
COORDINATES = {
    "default": RULE.coordinate,
    "ratio": lambda r: np.asarray(r, float),
    "noise_share": lambda r: 1 / (1 + 1 / np.asarray(r, float)),
    "root": lambda r: np.sqrt(np.asarray(r) + 0.1),
    "log": np.log1p,
}
# Nodes in σ/α, the newest first, and where the step goes.
STEPS = {
    "near noise": ([800.0, 20_000.0], 60.0),
    "long": ([10.0, 40.0, 157.0], 2.0),
    "usual": ([0.5, 0.7, 1.0, 1.4], 0.35),
    "to the data": ([0.03, 0.07, 0.13, 0.26], 0.0),
    "up": ([0.5, 0.35, 0.25, 0.2], 0.8),
    "far": ([0.030, 0.031, 0.032], 0.0),
    "all the way": ([20.0, 157.0], 0.0),
}


# ------------------------------------------------------------------ even steps


def integrates(weights, power):
    """Whether the weights give ∫_0^1 s^power ds from the values at 0, −1, −2, …"""
    quadrature = sum(weight * Fraction(-node) ** power for node, weight in enumerate(weights))
    return quadrature == Fraction(1, power + 1)


@pytest.mark.parametrize("order", [*BOOK, max(BOOK) + 1, 12])
def test_adams_bashforth_is_exact_for_polynomials_below_its_order(order):
    """And for no others: the weights are of that order, and the book's where it has them; there is no highest order."""
    weights = adams_bashforth(order)
    assert list(weights) == list(BOOK.get(order, weights))
    assert all(type(weight) is Fraction for weight in weights)
    assert (type(weights), len(weights)) == (tuple, order)
    assert [integrates(weights, power) for power in range(order + 1)] == [True] * order + [False]


@pytest.mark.parametrize("order", [0, -1, 2.5])
def test_an_order_is_a_whole_number_of_at_least_one(order):
    with pytest.raises(ValueError, match=f"^order is {order}; it must be a whole number of at least 1"):
        adams_bashforth(order)


@pytest.mark.parametrize("order", BOOK)
def test_exact_weights_on_even_steps_are_adams_bashforth(order):
    for step in (1.0, -0.125, 1 / 64):
        nodes = 10 - step * np.arange(order)
        weights = exact_weights(nodes, 10.0, 10.0 + step, COORDINATES["ratio"])
        expected = np.array(BOOK[order], float)
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# ------------------------------------------------------------------ any steps


@pytest.mark.parametrize("step", STEPS)
def test_exact_weights_are_the_integrals_of_lagranges_polynomials(step):
    """They agree with SciPy's adaptive quadrature to 1e-12 of the largest weight, in any coordinate."""
    nodes, there = STEPS[step]
    here = nodes[0]
    for name, u in COORDINATES.items():
        at = u(nodes)
        weights = exact_weights(nodes, here, there, u)
        assert math.fsum(weights) == pytest.approx(1, abs=1e-12 * max(map(abs, weights)))
        for i, weight in enumerate(weights):

            def lagrange(ratio, i=i, u=u, at=at):
                return math.prod((u(ratio) - at[j]) / (at[i] - at[j]) for j in range(len(at)) if j != i)

            # The integral is taken over a root of σ/α, which runs over decades.
            integral, _ = quad(
                lambda v, lagrange=lagrange: lagrange(v**4) * 4 * v**3,
                here**0.25,
                there**0.25,
                epsabs=0,
                epsrel=1e-13,
                limit=500,
            )
            assert weight == pytest.approx(integral / (there - here), abs=1e-12 * max(map(abs, weights))), name


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=5, unique=True),
    st.floats(0, 100),
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
)
def test_exact_weights_integrate_the_polynomial_they_interpolate(ratios, there, coefficients):
    """Exact for any polynomial in u of a degree below the number of nodes."""
    nodes = sorted(ratios)
    at = RULE.coordinate(nodes)
    if np.min(np.diff(at), initial=1) < 1e-2 or abs(there - nodes[0]) < 1e-3:
        return
    polynomial = np.polynomial.Polynomial(coefficients[: len(nodes)])
    weights = np.array(exact_weights(nodes, nodes[0], there))
    mean, _ = quad(
        lambda v: polynomial(RULE.coordinate(v**2)) * 2 * v, nodes[0] ** 0.5, there**0.5, epsrel=1e-12, limit=500
    )
    assert weights @ polynomial(at) == pytest.approx(mean / (there - nodes[0]), abs=1e-9 * np.abs(weights).sum())


def test_an_answer_at_pure_noise_has_no_weight():
    assert exact_weights([2.0, 5.0, math.inf], 2.0, 1.0) == (*exact_weights([2.0, 5.0], 2.0, 1.0), 0.0)
    assert exact_weights([math.inf], math.inf, 3.0) == (1.0,)
    # Much noise tends to pure noise.
    far = exact_weights([2.0, 5.0, 1e150], 2.0, 1.0)
    np.testing.assert_allclose(far, exact_weights([2.0, 5.0, math.inf], 2.0, 1.0), atol=0.05)


def test_a_step_without_a_length_or_an_end_has_the_newest_answer_alone():
    assert exact_weights([3.0, 4.0], 3.0, 3.0) == (1.0, 0.0)
    assert exact_weights([3000.0000000000005, 4000.0], 3000.0000000000005, 3000.0) == (1.0, 0.0)
    assert exact_weights([3.0, 2.0], 3.0, math.inf) == (1.0, 0.0)
    weights = exact_weights([3.0, 4.0], 3.0, 3.0 * (1 + 1e-10))
    assert all(type(weight) is float for weight in weights)
    assert 0 < weights[1] < 1e-9


def test_a_step_to_the_smallest_number_is_one_to_zero():
    for space in ("epsilon", "flow"):
        near, end = (exact_weights([2.0, 3.0], 2.0, there, np.log, space) for there in (5e-324, 0.0))
        np.testing.assert_allclose(near, end, rtol=1e-12)


def test_two_answers_at_one_level_are_refused():
    with pytest.raises(ValueError, match="two values at one place"):
        exact_weights([1.0, 2.0, 2.0], 1.0, 0.5)


def test_the_coordinate_is_its_formula():
    """ρ/(ρ + 0.17) + 0.11·√(−log α²), where α² = 1/(1 + ρ²), as a float64 array of any shape."""
    alpha = np.array([[1.0, 0.9], [0.5, 0.006]])
    ratio = np.sqrt(1 - alpha**2) / alpha
    expected = ratio / (ratio + 0.17) + 0.11 * np.sqrt(-2 * np.log(alpha))
    np.testing.assert_allclose(RULE.coordinate(ratio.tolist()), expected, rtol=1e-14)
    assert RULE.coordinate(1).dtype == RULE.coordinate(np.float32(1)).dtype == np.float64


def test_the_quadrature_takes_few_points_and_finds_a_logarithm():
    """Panels are even in log ρ, each no wider than a factor e, with 16 values of u each."""
    asked = []

    def log(ratio):
        asked.append(np.asarray(ratio))
        return np.log(ratio)

    weights = exact_weights([1.0, 2.0], 1.0, 0.01, log)
    # ∫ log ρ dρ = ρ·log ρ − ρ, and u = log ρ is 0 and log 2 at the nodes.
    mean = (-1 - (0.01 * math.log(0.01) - 0.01)) / 0.99
    np.testing.assert_allclose(weights, [1 - mean / math.log(2), mean / math.log(2)], rtol=1e-13)
    panels = asked[1].reshape(-1, 16)
    assert len(panels) == 5
    assert all(1 < ends.max() / ends.min() < math.e for ends in panels)


# ------------------------------------------------------------------ in any space


MEASURES = {  # du/dρ, up to the sign
    "epsilon": lambda r: 1.0,
    "sample": lambda r: 1 / r**2,
    "v_prediction": lambda r: 1 / (1 + r**2),
    "flow": lambda r: 1 / (1 + r) ** 2,
}


@pytest.mark.parametrize("space", MEASURES)
def test_in_every_space_the_mean_is_over_its_own_coordinate(space):
    for nodes, there in ([0.5, 0.7, 1.0, 1.4], 0.35), ([5.0, 9.0, 40.0], 0.8), ([0.2, 0.15], 0.6):
        weights = exact_weights(nodes, nodes[0], there, np.log, space)
        at = np.log(nodes)
        total, _ = quad(MEASURES[space], nodes[0], there, epsrel=1e-13)
        for i, weight in enumerate(weights):
            part, _ = quad(
                lambda r, i=i, at=at: (
                    math.prod((np.log(r) - at[j]) / (at[i] - at[j]) for j in range(len(at)) if j != i)
                    * MEASURES[space](r)
                ),
                nodes[0],
                there,
                epsabs=0,
                epsrel=1e-13,
            )
            assert weight == pytest.approx(part / total, abs=1e-11 * max(map(abs, weights)))


def test_in_data_space_the_last_step_extrapolates_the_picture():
    """At σ = 0 the mean over 1/ρ is the value there, where the coordinate has a value there."""
    weights = exact_weights([0.1, 0.3], 0.1, 0.0, COORDINATES["ratio"], "sample")
    np.testing.assert_allclose(weights, [1.5, -0.5], rtol=1e-14)  # the line through 0.1 and 0.3 at 0
    shifted = exact_weights([0.1, 0.3], 0.1, 0.0, lambda ratio: 1 + ratio, "sample")
    np.testing.assert_allclose(shifted, [1.5, -0.5], rtol=1e-14)
    assert exact_weights([0.1, 0.3], 0.1, 0.0, np.log, "sample") == (1.0, 0.0)


def test_in_noise_space_the_last_step_integrates_a_logarithm_to_zero():
    """∫ log ρ dρ from 0.1 to 0 is finite: its mean is log 0.1 − 1."""
    weights = exact_weights([0.1, 0.3], 0.1, 0.0, np.log)
    assert weights[1] == pytest.approx(-1 / math.log(3), rel=1e-12)


def test_from_pure_noise_a_coordinate_that_is_finite_there_counts():
    """In α/σ the answer at ρ = ∞ stands at 0. The step's mean in data space is then the trapezoid's."""
    inverse = np.reciprocal
    weights = exact_weights([2.0, math.inf], math.inf, 2.0, inverse, "sample")
    np.testing.assert_allclose(weights, [0.5, 0.5], rtol=1e-12)
    # There φ along ε is φ along x_0, its limit.
    assert exact_weights([2.0, math.inf], math.inf, 2.0, inverse) == weights
    flow = exact_weights([2.0, math.inf], math.inf, 2.0, COORDINATES["noise_share"], "flow")
    np.testing.assert_allclose(flow, [0.5, 0.5], rtol=1e-12)
    assert exact_weights([2.0, math.inf], math.inf, 2.0, np.log, "sample") == (1.0, 0.0)
    assert exact_weights([math.inf, 2.0], math.inf, 1.0, np.log, "sample") == (0.0, 1.0)
