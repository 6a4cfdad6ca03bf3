// Runs a plan's JSON in plain JavaScript: a page includes this file, Node requires it.
"use strict";

// What networks predict, each a·x_0 + b·ε: [a, b] at the level (α, σ).
const PREDICTIONS = {
  epsilon: () => [0, 1],
  sample: () => [1, 0],
  v_prediction: (alpha, sigma) => [-sigma, alpha],
  flow: () => [-1, 1],
};

function gaussian() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

/**
 * All states of a run, from `x`, any array of numbers, to the sample.
 * `model(x, t, row)` answers as many numbers, which mean what `predicted` names. `normal()` draws from N(0, 1).
 */
function runPlan(plan, model, x, predicted = "epsilon", normal = gaussian) {
  if (plan.format !== "pndm_solvers.plan/2") throw new Error(`format is ${plan.format}, not pndm_solvers.plan/2`);
  if (!(predicted in PREDICTIONS)) throw new Error(`predicted is ${predicted}; known are ${Object.keys(PREDICTIONS)}`);
  if (plan.fitted && plan.fitted.prediction !== predicted) {
    throw new Error(`the plan was fitted to a network that predicts ${plan.fitted.prediction}, not ${predicted}`);
  }
  const states = [Float64Array.from(x)];
  const answers = [];
  for (const row of plan.rows) {
    const state = states[states.length - 1];
    const output = model(state, row.t, row);
    const [a, b] = PREDICTIONS[predicted](row.alpha, row.sigma);
    const [p, q] = PREDICTIONS[row.space](row.alpha, row.sigma);
    const scale = row.alpha * b - row.sigma * a;
    answers.push(state.map((value, n) => {
      if (predicted === row.space) return output[n];
      return ((p * b - q * a) * value + (row.alpha * q - row.sigma * p) * output[n]) / scale;
    }));
    const next = new Float64Array(state.length);
    for (const [terms, arrays] of [[row.states, states], [row.answers, answers]]) {
      for (const [index, weight] of terms) arrays[index].forEach((value, n) => { next[n] += weight * value; });
    }
    states.push(row.noise ? next.map((value) => value + row.noise * normal()) : next);
  }
  return states;
}

if (typeof module !== "undefined") module.exports = { runPlan, gaussian };
