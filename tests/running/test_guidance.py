"""Classifier-free guidance: one call of a network a row, a scale for each sample, and rescaled answers."""

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, numbers, same
from conftest import assert_refused, named
from runs import LINEAR, START

from pndm_solvers import PLMSSolver, advance_together, classifier_free_guidance, initial_noise
from pndm_solvers.reference import load_network

PLAN = PLMSSolver(LINEAR).plan(5)
LABEL = np.array([3.0, 0.0, 1.0, 2.0])
NULL = 10.0


def network(x, t, label):
    """Each sample's answer depends on its own rows alone."""
    return 0.5 * x + label[:, None] + 0.001 * t[:, None]


def counted(calls):
    def model(x, t, label):
        calls.append(x.shape[0])
        return network(x, t, label)

    return model


def given(library, **others):
    return {name: library.array(values) for name, values in {"label": LABEL, **others}.items()}


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_one_call_a_row_gives_the_mean_of_two(library):
    calls, x = [], library.array(START)
    guided = classifier_free_guidance(counted(calls), {"label": NULL}, 3.0)
    found = PLAN.run(guided, x, condition=given(library))
    assert calls == [2 * len(START)] * PLAN.model_calls

    def apart(x, t, label):
        return 3 * network(x, t, label) - 2 * network(x, t, label * 0 + NULL)

    np.testing.assert_allclose(numbers(found), numbers(PLAN.run(apart, x, condition=given(library))), rtol=1e-5)


@pytest.mark.parametrize(("scale", "expected"), [(1, LABEL), (0, np.full(4, NULL))])
def test_a_scale_of_one_or_zero_asks_for_one_answer(scale, expected):
    calls = []
    guided = classifier_free_guidance(counted(calls), {"label": NULL}, scale)
    t = np.zeros(4)
    assert np.array_equal(guided(START, t, label=LABEL), network(START, t, expected))
    assert calls == [4]


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_each_sample_has_its_own_scale(library):
    scales = np.array([0.0, 1.0, 2.5, 7.0])
    guided = classifier_free_guidance(network, {"label": NULL}, 3.0)
    found = PLAN.run(guided, library.array(START), condition=given(library, guidance_scale=scales))
    for row, scale in enumerate(scales):
        alone = classifier_free_guidance(network, {"label": NULL}, scale)
        rows = slice(row, row + 1)
        label = library.array(LABEL[rows])
        expected = PLAN.run(alone, library.array(START[rows]), condition={"label": label})
        np.testing.assert_allclose(numbers(found)[rows], numbers(expected), rtol=2e-5, atol=1e-5)


def test_scales_follow_the_batch():
    """Runs of different scales share a call, and a tolerance's pilot takes the scales of its samples."""
    guided = classifier_free_guidance(network, {"label": NULL}, 3.0)
    conditions = [{"label": LABEL[:2], "guidance_scale": np.array([1.0, 2.0])}]
    conditions += [{"label": LABEL[2:], "guidance_scale": np.array([5.0, 0.0])}]
    states = [PLAN.start(x, condition=c) for x, c in zip((START[:2], START[2:4]), conditions, strict=True)]
    while not all(state.done for state in states):
        states = advance_together(guided, states)
    for state, condition, x in zip(states, conditions, (START[:2], START[2:4]), strict=True):
        np.testing.assert_allclose(state.x, PLAN.run(guided, x, condition=condition), rtol=1e-12)
    many = np.random.default_rng(0).standard_normal((12, 3))
    condition = {"label": np.arange(12.0), "guidance_scale": np.linspace(1, 3, 12)}
    PLMSSolver(LINEAR).sample(guided, many, tolerance=0.5, condition=condition)


@pytest.mark.parametrize("null", [NULL, np.full(1, NULL), np.full(4, NULL)])
def test_what_stands_for_no_condition_broadcasts(null):
    expected = classifier_free_guidance(network, lambda x, t: network(x, t, np.full(4, NULL)), 2.0)
    guided = classifier_free_guidance(network, {"label": null}, 2.0)
    np.testing.assert_allclose(
        guided(START, np.ones(4), label=LABEL), expected(START, np.ones(4), label=LABEL), rtol=1e-14
    )


def test_a_learned_null_condition_carries_gradients():
    null = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    guided = classifier_free_guidance(lambda x, t, text: x + text, {"text": null}, 2.0)
    text = torch.ones(4, 3, dtype=torch.float64)
    guided(torch.from_numpy(START), torch.zeros(4), text=text).sum().backward()
    assert torch.equal(null.grad, torch.full((1, 3), -4.0, dtype=torch.float64))


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_rescaled_guidance_is_that_of_its_paper(library):
    """Lin et al. (2024), eq. (15) and (16)."""
    x, t = np.random.default_rng(1).standard_normal((4, 2, 3)), np.zeros(4)

    def model(x, t, label):
        return x * label[:, None, None]

    for scale in (library.array(np.full(4, 7.5)), None):
        guided = classifier_free_guidance(model, {"label": -0.5}, 7.5, rescale=0.7)
        condition = given(library) | ({} if scale is None else {"guidance_scale": scale})
        found = guided(library.array(x), library.array(t), **condition)
        c, u = x * LABEL[:, None, None], x * -0.5
        g = u + 7.5 * (c - u)
        ratio = c.std(axis=(1, 2), keepdims=True) / g.std(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(numbers(found), 0.7 * ratio * g + 0.3 * g, rtol=1e-5, atol=1e-6)
    # At a scale of 0 the answer is u, however it was said.
    scales = library.array(np.array([0.0, 7.5, 0.0, 1.0]))
    mixed = guided(library.array(x), library.array(t), **given(library), guidance_scale=scales)
    np.testing.assert_allclose(numbers(mixed)[::2], (x * -0.5)[::2], rtol=1e-6)
    np.testing.assert_allclose(numbers(mixed)[3], c[3], rtol=1e-5)
    flat = classifier_free_guidance(lambda x, t, label: x * 0, {"label": 0.0}, 2.0, rescale=1.0)
    assert np.array_equal(flat(x, t, label=LABEL), x * 0), "an answer without deviation stays"


def test_two_models_are_called_beside_each_other():
    up, down = (lambda x, t, **condition: x + 1), (lambda x, t: x - 1)
    x, t = np.zeros((2, 3)), np.zeros(2)
    for scale, expected in ((3.0, 5), (1, 1), (0, -1)):
        guided = classifier_free_guidance(up, down, scale)
        assert np.all(guided(x, t, label=t) == expected)
    scales = np.array([0.0, 3.0])
    assert np.array_equal(classifier_free_guidance(up, down, 1)(x, t, guidance_scale=scales)[:, 0], [-1, 5])


@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_two_models_may_write_into_what_they_share(array):
    """Both models change x and t in place, and answer in one buffer."""
    x, t, buffer = (array(np.full(shape, 4.0)) for shape in ((2, 3), 2, (2, 3)))

    def model(factor):
        def careless(x, t):
            x *= factor
            t /= 2
            buffer[:] = x + t[:, None]
            return buffer

        return careless

    mixed = classifier_free_guidance(model(2.0), model(1.0), 3.0)(x, t)
    assert (mixed == 3 * (8 + 2) - 2 * (4 + 2)).all()


@pytest.mark.parametrize("scale", [2.0, 5.0])
def test_the_fashion_network_is_called_once_a_row(scale):
    fashion = load_network("fashion")
    fashion.unet.double()  # in float32 its sums depend on the size of the batch
    x = torch.from_numpy(initial_noise((6, *fashion.shape), 0))
    label, calls, batches = torch.arange(6), [], []

    def watched(x, t, label=None):
        calls.append(1)
        batches.append(len(x))
        return fashion(x, t, label)

    run = {"prediction": fashion.prediction, "condition": {"label": label}}
    plan = PLMSSolver(fashion.schedule).plan(8, prediction=fashion.prediction)
    with torch.inference_mode():
        one = plan.run(classifier_free_guidance(watched, {"label": 10}, scale), x, **run)
        assert (len(calls), set(batches)) == (plan.model_calls, {12})
        two = plan.run(classifier_free_guidance(watched, watched, scale), x, **run)
    assert len(calls) == 3 * plan.model_calls
    assert (one - two).abs().max() <= 1e-12 * two.abs().max()
    assert same(plan.run(fashion.model(label, scale), x, prediction=fashion.prediction).detach(), one.clone())


def test_bad_guidance_is_refused():
    x, t = np.zeros((4, 3)), np.zeros(4)

    def called(*arguments, condition=None, **options):
        guided = classifier_free_guidance(*arguments, **options)
        return lambda: guided(x, t, **({"label": LABEL} if condition is None else condition))

    good, null = (lambda x, t, label: x), {"label": NULL}
    assert_refused(
        [
            (lambda: classifier_free_guidance(None, null, 3.0), TypeError, "conditional is None"),
            (lambda: classifier_free_guidance(good, None, 3.0), TypeError, "unconditional is None; it must be what"),
            (lambda: classifier_free_guidance(good, null, np.ones(4)), TypeError, "scale for each sample as condition"),
            (lambda: classifier_free_guidance(good, null, np.inf), ValueError, "scale is inf"),
            (lambda: classifier_free_guidance(good, null, 2, rescale=1.5), ValueError, "rescale is 1.5; it must be"),
            (called(good, null, 3.0, condition={}), TypeError, "the condition has no 'label'"),
            (called(good, {"label": np.zeros(3)}, 3.0), ValueError, "unconditional 'label' is of shape .3,."),
            (called(good, {"label": torch.zeros(4)}, 3.0), TypeError, "pass arrays of one library"),
            (called(good, {"label": "none"}, 3.0), TypeError, "unconditional 'label' is 'none'"),
            (lambda: classifier_free_guidance(good, {}, 3.0), TypeError, "unconditional is {}"),
            (lambda: classifier_free_guidance(good, null, [1.0, 2.0]), TypeError, "scale for each sample as condition"),
            (called(good, {"label": 2.5}, 3.0, condition={"label": LABEL.astype(int)}), ValueError, "'label' is 2.5"),
            (called(good, {"label": 300}, 3.0, condition={"label": LABEL.astype(np.uint8)}), ValueError, "at most 255"),
            (called(good, {"label": 2}, 3.0, condition={"label": LABEL > 1}), TypeError, "of dtype bool"),
            (
                called(good, {"label": LABEL}, 3.0, condition={"label": LABEL.astype(int)}),
                TypeError,
                "of dtype float64",
            ),
            (called(lambda x, t, label: x[:, :1], null, 3.0), ValueError, "it must be of shape .8, 3."),
            (called(lambda x, t, label: x[:4], null, 3.0), ValueError, "the state, twice, it must be of shape"),
            (called(lambda x, t, label: (x,), null, 3.0), TypeError, "the model's answer is"),
            (called(lambda x, t, label: (x,), lambda x, t: x, 3.0), TypeError, "^conditional's answer is"),
            (called(good, lambda x, t: (x,), 3.0), TypeError, "^unconditional's answer is"),
        ]
    )


def test_samples_of_one_number_are_not_rescaled():
    guided = classifier_free_guidance(network, {"label": NULL}, 3.0, rescale=0.7)
    with pytest.raises(ValueError, match=r"samples of shape \(1,\) have no deviation"):
        guided(START[:, :1], np.zeros(4), label=LABEL)


def test_a_time_for_all_is_passed_on():
    guided = classifier_free_guidance(lambda x, t, label: x * t + label[:, None], {"label": NULL}, 2.0)
    np.testing.assert_allclose(guided(START, 3.0, label=LABEL), START * 3 + (2 * LABEL - NULL)[:, None])
