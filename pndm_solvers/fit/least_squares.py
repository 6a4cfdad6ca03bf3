"""Weights by least squares, step after step, on the states that the coarse plan itself reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pndm_solvers.fit.draft import Draft
from pndm_solvers.fit.runs import Part, Runner, as_prediction, numbers
from pndm_solvers.transfer import transfer_weights

if TYPE_CHECKING:
    from pndm_solvers.fit.pilot import Pilot

__all__ = ["least_squares"]

RIDGE = 1e-4  # beside the mean square of the answers


def least_squares(draft: Draft, pilot: Pilot, parts: Sequence[Part], runner: Runner) -> Draft:
    """The draft with weights that lead each state nearest to the pilot's at the next level.

    x_s = p·x_t + q·Σ w·e is linear in the weights w; a ridge draws them towards the draft's own.
    """
    begun: list[tuple[Part, list[Any], list[Any]]] = [(part, [part.start.states[0]], []) for part in parts]
    for k, there in enumerate(draft.levels[1:]):
        plan, own = draft.plan(), np.array(draft.weights[k])
        space = draft.levels[k].space
        p, q = transfer_weights(draft.levels[k], there, space)
        gram, moment = np.zeros((len(own), len(own))), np.zeros(len(own))
        for part, states, answers in begun:
            state = replace(part.start, plan=plan, row=k, states={k: states[k]})
            answers.append(runner.answer(state))
            past = [
                as_prediction(space, plan.rows[j], states[j], answers[j], pilot.kept)
                for j in range(k, k - len(own), -1)
            ]
            columns = np.stack([e.ravel() for e in past])
            wanted = (pilot.at(there, part.rows) - p * numbers(states[k], pilot.kept)).ravel() / q
            gram += columns @ columns.T
            moment += columns @ wanted
        size = np.sqrt(np.diag(gram)).clip(1e-100)  # a network may answer 0
        system = gram / np.outer(size, size) + RIDGE * np.eye(len(own))
        weights = np.linalg.solve(system, moment / size + RIDGE * own * size) / size
        draft = replace(draft, weights=(*draft.weights[:k], tuple(weights.tolist()), *draft.weights[k + 1 :]))
        plan = draft.plan()
        for part, states, answers in begun:
            states.append(runner.state(plan, part, states, answers).states[k + 1])
    return draft
