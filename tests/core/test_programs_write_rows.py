"""Asking writes a row; moving makes a linear form, which becomes numbers when the network is asked at it."""

import math

import numpy as np
import pytest
from conftest import SCHEDULES
from scipy.integrate import solve_ivp

from pndm_solvers import Grid, Level, PLMSSolver, PRKSolver, Solver, make_grid
from pndm_solvers.prediction import PREDICTIONS, conversion
from pndm_solvers.program import Form, Program
from pndm_solvers.transfer import SPACES, transfer_weights

LINEAR = SCHEDULES["linear"]
HERE, THERE, BELOW = LINEAR.level(700), LINEAR.level(400), LINEAR.level(90)
PURE_NOISE = Level(1.0, 0.0, 1.0)


def program(times=(700, 400), stop=90):
    return Program(make_grid(LINEAR, timesteps=list(times), stop=stop))


# ------------------------------------------------------------------ φ along any prediction


CLEAN = Level(-1.0, 1.0, 0.0)
LOUD = Level(3.0, 1.0, 7.0)  # of a variance-exploding schedule


@pytest.mark.parametrize("space", [space for space in SPACES if space != "v_prediction"])
@pytest.mark.parametrize(("here", "there"), [(HERE, BELOW), (BELOW, HERE), (HERE, CLEAN), (LOUD, HERE)])
def test_phi_keeps_the_picture_and_the_noise(space, here, there):
    """x_t = α_t·x_0 + σ_t·ε and the prediction e = a·x_0 + b·ε give x_s = α_s·x_0 + σ_s·ε, exactly.

    v turns with the angle where picture and noise stay, so only its own constants are exact.
    """
    p, q = transfer_weights(here, there, space)
    for picture, noise in ((1.0, 0.0), (0.0, 1.0), (0.7, -1.3)):
        a, b = PREDICTIONS[space](here.alpha, here.sigma)
        x = here.alpha * picture + here.sigma * noise
        moved = p * x + q * (a * picture + b * noise)
        assert moved == pytest.approx(there.alpha * picture + there.sigma * noise, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("here", "there"), [(HERE, BELOW), (BELOW, HERE), (HERE, CLEAN), (LOUD, HERE), (THERE, LOUD)])
def test_phi_follows_the_flow_while_its_prediction_stays(space, here, there):
    """dx/dt = α'·x_0 + σ'·ε, with x_0 and ε from the state and the constant e, by SciPy's integrator."""
    size = SPACES[space].size

    def slope(s, x, e=0.7):
        alpha, sigma = (a + s * (b - a) for a, b in zip(here[1:], there[1:], strict=True))
        p, q = conversion(space, "sample", alpha, sigma)
        picture = p * x + q * e * size(alpha, sigma)
        noise = (x - alpha * picture) / sigma
        return (there.alpha - here.alpha) * picture + (there.sigma - here.sigma) * noise

    p, q = transfer_weights(here, there, space)
    last = 1 - 1e-9 if there.sigma == 0 else 1.0
    exact = solve_ivp(slope, (0, last), [1.3], rtol=1e-12, atol=1e-13, method="DOP853").y[0, -1]
    assert p * 1.3 + q * 0.7 == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("space", SPACES)
def test_a_space_is_its_scale(space):
    """Its slope is the prediction: ±((∂D/∂α)·ε − (∂D/∂σ)·x_0); and u, a function of ρ, has du = dρ/D(1, ρ)²."""
    scale, shift, coordinate, size = SPACES[space]
    for alpha, sigma in ((0.6, 0.8), (1.0, 3.0), (0.3, 0.2)):
        by_alpha, by_sigma = (
            (scale(alpha + h, sigma + k) - scale(alpha - h, sigma - k)) / 2e-6 for h, k in ((1e-6, 0), (0, 1e-6))
        )
        a, b = (weight / size(alpha, sigma) for weight in PREDICTIONS[space](alpha, sigma))
        sign = -1 if space == "sample" else 1
        np.testing.assert_allclose((sign * a, sign * b), (-by_sigma, by_alpha), atol=1e-8)
        assert shift(alpha, sigma) / scale(alpha, sigma) == pytest.approx(coordinate.of(sigma / alpha), rel=1e-14)
        ratio = sigma / alpha
        slope = (coordinate.of(ratio + 1e-6) - coordinate.of(ratio - 1e-6)) / 2e-6
        assert sign * slope == pytest.approx(1 / scale(1.0, ratio) ** 2, rel=1e-8)
        assert coordinate.ratio(coordinate.of(ratio)) == pytest.approx(ratio, rel=1e-14)


def test_phi_along_epsilon_is_equation_9():
    """With α² + σ² = 1: x_s = √ᾱ_s/√ᾱ_t·(x_t − √(1−ᾱ_t)·ε) + √(1−ᾱ_s)·ε, in the paper's own form."""
    a_t, a_s = HERE.alpha**2, THERE.alpha**2
    p, q = transfer_weights(HERE, THERE)
    assert p == pytest.approx(math.sqrt(a_s / a_t), rel=1e-14)
    change = (a_s - a_t) / (math.sqrt(a_t) * (math.sqrt((1 - a_s) * a_t) + math.sqrt((1 - a_t) * a_s)))
    assert q == pytest.approx(-change, rel=1e-9)


def test_phi_along_the_picture_is_the_step_of_data_space():
    """DPM-Solver++'s first order: x_s = σ_s/σ_t·x_t − α_s·(e^{−h} − 1)·x_0, h = λ_s − λ_t, λ = log(α/σ)."""
    h = math.log(HERE.ratio / THERE.ratio)
    expected = THERE.sigma / HERE.sigma, -THERE.alpha * math.expm1(-h)
    assert transfer_weights(HERE, THERE, "sample") == pytest.approx(expected, rel=1e-12)


def test_at_pure_noise_only_epsilon_is_refused():
    for space in SPACES:
        if space != "epsilon":
            transfer_weights(PURE_NOISE, THERE, space)
        else:
            with pytest.raises(ValueError, match=f"'{space}' does not determine the picture at t = 1, where α = 0"):
                transfer_weights(PURE_NOISE, THERE, space)


@pytest.mark.parametrize("level", [HERE, THERE, PURE_NOISE, Level(1.0, 0.0, 2.0), Level(0.3, 0.7, 0.3)])
def test_any_prediction_is_weights_of_the_state_and_of_any_other(level):
    x0, noise = 0.8, -1.7
    x = level.alpha * x0 + level.sigma * noise
    values = {
        name: a * x0 + b * noise
        for name, (a, b) in ((name, of(level.alpha, level.sigma)) for name, of in PREDICTIONS.items())
    }
    for given in PREDICTIONS:
        for wanted in PREDICTIONS:
            if level.alpha == 0 and given in ("epsilon", "score") and wanted not in (given, "epsilon", "score"):
                with pytest.raises(ValueError, match=f"'{given}', which does not determine '{wanted}' at α = 0"):
                    conversion(given, wanted, level.alpha, level.sigma)
            elif level.alpha or given not in ("epsilon", "score"):
                p, q = conversion(given, wanted, level.alpha, level.sigma)
                assert p * x + q * values[given] == pytest.approx(values[wanted], rel=1e-12), (given, wanted)


def test_levels_name_what_rows_combine():
    assert (HERE.space, PURE_NOISE.space) == ("epsilon", "sample")
    assert PURE_NOISE.ratio == math.inf
    for level in (HERE, PURE_NOISE):
        assert conversion(level.space, level.space, level.alpha, level.sigma) == (0, 1)


# ------------------------------------------------------------------ asking and moving


def test_ddim_by_hand():
    """One question and one move a step: the rows are φ's own two weights."""
    written = program()
    x = written.start
    for _, there in written.grid.steps:
        x = written.transfer(x, written.ask(x), there)
    table = written.table(x, "by hand")
    assert [(row.states, row.answers) for row in table.rows] == [
        (((k, p),), ((k, q),))
        for k, (p, q) in enumerate([transfer_weights(HERE, THERE), transfer_weights(THERE, BELOW)])
    ]
    assert table.levels == (HERE, THERE, BELOW)
    assert (table.name, table.integer_times) == ("by hand", True)
    assert [(row.noise, row.stage) for row in table.rows] == [(0.0, False)] * 2


def test_times_are_integers_on_a_table_of_whole_times_alone():
    written = program((700, 400.5))
    e = written.ask(written.start)
    assert written.table(written.transfer(written.start, e, BELOW), "one").integer_times
    x = written.transfer(written.start, e, written.grid.levels[1])
    assert not written.table(written.transfer(x, written.ask(x), BELOW), "two").integer_times


def test_asking_twice_is_one_call():
    """At the same form, at a form made anew with the same content, and at the state by its number."""
    written = program()
    e = written.ask(written.start)
    x, again = (written.transfer(written.start, e, THERE) for _ in range(2))
    later = written.ask(x)
    assert written.ask(again) is later
    end = written.transfer(x, later, BELOW)
    assert written.ask(written.transfer(x, e, THERE)) is later  # no way to go
    assert written.ask(written.transfer(x, e, THERE, stage=True)) is later
    assert written.table(end, "twice").model_calls == 2
    # Another level, or another content, is another question.
    assert written.ask(written.transfer(x, e, BELOW)) is not later
    assert written.ask(end) is not written.ask(written.transfer(x, e, BELOW))


def test_a_stage_that_is_a_step_s_end_is_a_point_of_the_solution():
    """First same as last, whichever of the two is asked at first."""
    for first in (True, False):
        written = program()
        e = written.ask(written.start)
        stage, point = (written.transfer(written.start, e, THERE, stage=stage) for stage in (first, not first))
        assert written.ask(stage) is written.ask(point)
        end = written.transfer(point, written.ask(point), BELOW)
        assert [row.stage for row in written.table(end, "fsal").rows] == [False, False]


def test_a_program_begins_with_the_state_it_is_given():
    written = program()
    assert written.start == Form(HERE, ((0, 1.0),), ())
    assert (written.start.noise, written.start.draw, written.start.stage) == (0.0, 0, False)
    plain = written.combine(written.start, 0.5, {written.ask(written.start): {"epsilon": 0.25}}, THERE)
    assert (plain.states, plain.answers, plain.noise, plain.stage) == (((0, 0.5),), ((0, 0.25),), 0.0, False)


def test_epsilon_of_a_noisy_state_is_a_call_even_at_pure_noise():
    """ε = x/σ holds the state's own draw, which a row without the state could only replace by another."""
    flow = SCHEDULES["rectified_flow"]
    written = Program(make_grid(flow, timesteps=[0.2], stop=0.9))
    e, end = written.ask(written.start), written.grid.levels[-1]
    noisy = written.combine(written.start, 1.0, {e: {"epsilon": 1.0}}, PURE_NOISE, noise=0.5)
    x = written.combine(written.start, 0.0, {written.ask(noisy): {"epsilon": 1.0}}, end)
    assert written.table(x, "noisy").model_calls == 2
    assert x.states == ((1, 1.0),)


def test_an_answer_that_nobody_uses_is_no_call():
    written = program()
    e = written.ask(written.start)
    x = written.transfer(written.start, e, THERE)
    idle = written.ask(x)
    plan = written.table(written.transfer(x, {e: 1.0, idle: 0.0}, BELOW), "idle")
    assert plan.model_calls == 1
    assert plan.rows[0].states == written.transfer(written.start, e, BELOW).states


def test_at_pure_noise_epsilon_is_the_state_itself():
    """Upwards into α = 0: there ε = x/σ, whatever the network answers, so it is not called."""
    flow = SCHEDULES["rectified_flow"]
    plan = PRKSolver(flow, "heun").plan(timesteps=[0.2], stop=1)
    assert (plan.model_calls, plan.end.alpha) == (1, 0.0)
    x, e = np.array([[0.4, -1.0]]), np.array([[0.7, 0.1]])
    np.testing.assert_allclose(plan.run(lambda x, t: e, x), e, rtol=1e-14)


def test_a_moved_state_is_a_form_until_it_is_asked_at():
    """φ(φ(x, e), e) = φ(x, e): two moves without a question between them write one row."""
    written = program()
    e = written.ask(written.start)
    middle = written.transfer(written.start, e, THERE, stage=True)
    x = written.transfer(middle, e, BELOW)
    (row,) = written.table(x, "two moves").rows
    p, q = transfer_weights(HERE, BELOW)
    assert dict(row.states) == pytest.approx({0: p})
    assert dict(row.answers) == pytest.approx({0: q})
    assert not row.stage
    shorter = program((700,), stop=400)
    middle = shorter.transfer(shorter.start, shorter.ask(shorter.start), THERE, stage=True)
    assert shorter.table(middle, "one move").rows[0].stage


def test_noises_of_two_moves_add_in_quadrature():
    written = program()
    e = written.ask(written.start)
    middle = written.transfer(written.start, e, THERE, noise=0.3)
    x = written.transfer(middle, e, BELOW, noise=0.4)
    scale, _ = transfer_weights(THERE, BELOW)
    assert written.table(x, "noisy").rows[0].noise == pytest.approx(math.hypot(0.3 * scale, 0.4))


def test_two_draws_are_two_states():
    """Forms of one content with noise are different draws, so the network is asked at each; at one of them once."""
    written = program()
    e = written.ask(written.start)
    x, other = (written.transfer(written.start, e, THERE, noise=0.5) for _ in range(2))
    assert written.ask(x) == written.ask(x)
    assert written.ask(other) != written.ask(x)


def test_less_epsilon_where_noise_replaces_it():
    """DDIM's eq. (12): σ of the target is √(σ² − noise²) for ε, the level itself stays."""
    written = program((700,), stop=400)
    x = written.transfer(written.start, written.ask(written.start), THERE, sigma=0.5, noise=0.25)
    (row,) = written.table(x, "eta").rows
    p, q = transfer_weights(HERE, THERE._replace(sigma=0.5))
    assert (row.states, row.answers, row.noise, x.level) == (((0, p),), ((0, q),), 0.25, THERE)


def test_means_mix_answers():
    """Of weights and answers in any space, here with ε in the rows; what cancels is left out of the row."""
    written = program()
    e = written.ask(written.start)
    x = written.transfer(written.start, e, THERE)
    later = written.ask(x)
    written.transfer(x, later, BELOW)  # states 0 and 1 have their numbers from now on, and their rows hold ε
    for space in SPACES:
        moved = written.transfer(x, {later: 1.5, e: -0.5}, BELOW, space=space)
        p, q = transfer_weights(THERE, BELOW, space)
        values = {0: (0.3, -0.8), 1: (0.3 * 2, 0.4)}  # (x, ε) of each row
        means = 0.0
        for row, answer, weight in ((1, later, 1.5), (0, e, -0.5)):
            state, noise = values[row]
            a, b = PREDICTIONS[space](answer.level.alpha, answer.level.sigma)
            x0 = (state - answer.level.sigma * noise) / answer.level.alpha
            means += weight * (a * x0 + b * noise)  # α² + σ² = 1, so v is its space's slope
        found = sum(w * values[i][0] for i, w in moved.states) + sum(w * values[j][1] for j, w in moved.answers)
        assert found == pytest.approx(p * values[1][0] + q * means, rel=1e-11)
    assert written.combine(x, 1.0, {e: {"sample": 0.0, "epsilon": 0.0}}, BELOW).answers == ()


@pytest.mark.parametrize("space", SPACES)
def test_rows_combine_what_their_method_averages(space):
    """A mean in a space stores one array a step: its answers are converted to that space, and need no state beside."""
    written = program((700, 550, 400))
    x, history = written.start, []
    for _, there in written.grid.steps:
        history.append(written.ask(x))
        x = written.transfer(x, {e: 1 / len(history) for e in history}, there, space=space)
    table = written.table(x, space)
    assert [row.space for row in table.rows] == [space] * 3
    assert [[i for i, _ in row.states] for row in table.rows] == [[0], [1], [2]]
    assert [[i for i, _ in row.answers] for row in table.rows] == [[0], [0, 1], [0, 1, 2]]


def test_a_corrected_state_is_written_on_the_state_it_corrects():
    """x_c = φ(x, mean with the new answer) = x_1 + q·(change of the mean): no older state remains."""
    written = program()
    e = written.ask(written.start)
    predicted = written.transfer(written.start, e, THERE)
    new = written.ask(predicted)
    corrected = written.transfer(written.start, {e: 0.5, new: 0.5}, THERE)
    rebased = written.rebase(corrected, on=predicted)
    assert (rebased.level, rebased.noise) == (THERE, 0.0)
    assert rebased.states == ((1, 1.0),)
    _, q = transfer_weights(HERE, THERE)
    assert dict(rebased.answers) == pytest.approx({0: -q / 2, 1: q / 2})
    assert written.rebase(written.transfer(written.start, new, THERE), on=predicted) == Form(
        THERE, ((1, 1.0),), ((0, pytest.approx(-q)), (1, pytest.approx(q)))
    )
    stage = written.transfer(predicted, new, BELOW, stage=True)
    there = written.rebase(stage, on=predicted)
    assert there.stage
    assert dict(there.states) == pytest.approx({0: -predicted.states[0][1], 1: 1.0 + stage.states[0][1]})
    # The two are one value: x_0 = 0.4, ε_0 = 0.9 and ε_1 = −0.2 give x_1, and either form the same state.
    x1 = sum(w * 0.4 for _, w in predicted.states) + sum(w * 0.9 for _, w in predicted.answers)
    values, epsilons = {0: 0.4, 1: x1}, {0: 0.9, 1: -0.2}
    one, other = (
        sum(w * values[i] for i, w in form.states) + sum(w * epsilons[j] for j, w in form.answers)
        for form in (corrected, rebased)
    )
    assert one == pytest.approx(other, rel=1e-13)


def test_the_first_question_is_at_the_first_state():
    written = program()
    with pytest.raises(ValueError, match="a method asks first at the state that a run begins with"):
        written.ask(Form(THERE, ((0, 1.0),), ()))
    near = LINEAR.level(700)._replace(t=700.0 - 1e-9)  # no way to go, so that the answer has no weight
    written = Program(Grid(LINEAR, (HERE, near), integral=False))
    table = written.table(written.transfer(written.start, written.ask(written.start), near), "no way to go")
    assert [(row.states, row.answers) for row in table.rows] == [(((0, 1.0),), ())]


def test_what_a_program_cannot_write_is_refused():
    written = program()
    e = written.ask(written.start)
    x = written.transfer(written.start, e, THERE)
    with pytest.raises(ValueError, match=r"short ends at t = 400, not at the grid's end, t = 90"):
        written.table(x, "short")
    with pytest.raises(ValueError, match=r"^space is 'data'; known are 'epsilon'"):
        written.transfer(x, e, BELOW, space="data")
    noisy = written.transfer(written.start, e, THERE, noise=0.1)
    for pair in ((noisy, x), (x, noisy)):
        with pytest.raises(ValueError, match=r"fresh noises of deviation .* are not one"):
            written.rebase(pair[0], on=pair[1])


def test_what_does_not_determine_the_picture_gives_way_to_its_limit():
    flow = SCHEDULES["rectified_flow"]
    written = Program(make_grid(flow, timesteps=[1.0], stop=0.2))
    e, end = written.ask(written.start), written.grid.levels[-1]
    moved = written.transfer(written.start, e, end)
    assert moved == written.transfer(written.start, e, end, space="sample")


def test_a_program_without_questions_is_a_table_without_rows():
    grid = make_grid(LINEAR, 1, spacing="leading", final="first")
    written = Program(grid)
    table = written.table(written.start, "nothing")
    assert (table.rows, table.end) == ((), grid.levels[0])


def test_from_pure_noise_a_mean_of_epsilon_is_one_of_pictures():
    """At α = 0 the answer is x̂_0, and φ's limit averages pictures: x_s = α_s·x̂_0 + σ_s/σ_t·x_t."""
    flow = SCHEDULES["rectified_flow"]
    written = Program(make_grid(flow, timesteps=[1.0, 0.5], stop=0.2))
    x = written.transfer(written.start, written.ask(written.start), flow.level(0.5))
    assert (x.states, x.answers) == (((0, 0.5),), ((0, 0.5),))
    assert x == written.transfer(written.start, written.ask(written.start), flow.level(0.5), space="sample")


def test_constant_answers_make_every_plan_one_step():
    """A mean of one constant ε is that ε: whatever the rows, they end where φ leads in one step."""
    for solver, final in ((PLMSSolver(LINEAR), "clean"), (PLMSSolver(LINEAR, 3, "rk4", "classical"), "first")):
        plan = solver.plan(9, final=final)
        p, q = transfer_weights(plan.levels[0], plan.end)
        x, e = np.array([[1.7, -0.3]]), np.array([[0.6, 0.2]])
        np.testing.assert_allclose(plan.run(lambda x, t, e=e: e, x), p * x + q * e, rtol=1e-9)


def test_a_mean_has_weights_that_sum_to_one():
    writing = program()
    first = writing.ask(writing.start)
    x = writing.transfer(writing.start, first, THERE)
    second = writing.ask(x)
    writing.transfer(x, {first: -0.5, second: 1.5}, BELOW)
    for mean in ({first: 1.1}, {first: -0.5, second: 1.4}, {}):
        with pytest.raises(ValueError, match=r"the weights of a mean sum to .*; they must sum to 1"):
            writing.transfer(x, mean, BELOW)


def test_a_method_that_forgets_its_state_is_told_so():
    class Forgetful(Solver):
        schedule, name, convergence_order = LINEAR, "forgetful", 1

        def write(self, program, x):
            program.transfer(x, program.ask(x), program.grid.levels[-1])

    with pytest.raises(TypeError, match="write of forgetful returned None; it must return the last state"):
        Forgetful().plan(3)
