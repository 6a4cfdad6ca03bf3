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
  checkPlan(plan, predicted);
  const states = [Float64Array.from(x)];
  const answers = [];
  for (const row of plan.rows) {
    const state = states[states.length - 1];
    const output = model(state, row.t, row);
    if (!output || output.length !== state.length) {
      throw new Error(`at t = ${row.t} the model answered ${output}, not ${state.length} numbers (nor a promise of them)`);
    }
    answers.push(converted(row, predicted, state, output));
    const next = new Float64Array(state.length);
    for (const [terms, arrays] of [[row.states, states], [row.answers, answers]]) {
      for (const [index, weight] of terms) arrays[index].forEach((value, n) => { next[n] += weight * value; });
    }
    states.push(row.noise ? next.map((value) => value + row.noise * normal()) : next);
  }
  return states;
}

/** An Error unless the plan can be run with such predictions. */
function checkPlan(plan, predicted) {
  if (plan.format !== "pndm_solvers.plan/2") throw new Error(`format is ${plan.format}, not pndm_solvers.plan/2`);
  if (!(predicted in PREDICTIONS)) throw new Error(`predicted is ${predicted}; known are ${Object.keys(PREDICTIONS)}`);
  if (plan.fitted && plan.fitted.prediction !== predicted) {
    throw new Error(`the plan was fitted to a network that predicts ${plan.fitted.prediction}, not ${predicted}`);
  }
  for (const { t, alpha, sigma, space } of plan.rows) {
    const [a, b] = PREDICTIONS[predicted](alpha, sigma);
    if (predicted !== space && alpha * b === sigma * a) {
      throw new Error(`at t = ${t}, where α = ${alpha} and σ = ${sigma}, ${predicted} does not determine ${space}`);
    }
  }
}

/** The model's output at a state as what the row combines: docs/reference/plan-format.md, step 2. */
function converted({ alpha, sigma, space }, predicted, state, output) {
  if (predicted === space) return Float64Array.from(output);
  const [a, b] = PREDICTIONS[predicted](alpha, sigma);
  const [p, q] = PREDICTIONS[space](alpha, sigma);
  return state.map((x, n) => ((p * b - q * a) * x + (alpha * q - sigma * p) * output[n]) / (alpha * b - sigma * a));
}

if (typeof module !== "undefined") module.exports = { runPlan, checkPlan, gaussian };
