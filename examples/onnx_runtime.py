"""A plan's JSON and a network, run by ONNX Runtime and NumPy alone: `export_onnx.py` makes both files."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

PREDICTIONS = {  # each is a·x_0 + b·ε, by its name: (a, b) at the level (α, σ)
    "epsilon": lambda alpha, sigma: (0, 1),
    "sample": lambda alpha, sigma: (1, 0),
    "v_prediction": lambda alpha, sigma: (-sigma, alpha),
    "flow": lambda alpha, sigma: (-1, 1),
}
predicted = "epsilon"  # by this network
plan = json.loads(Path("plan.json").read_text())
network = onnxruntime.InferenceSession("digits.onnx")
rng = np.random.default_rng(0)
states, answers = [rng.standard_normal((64, 1, 8, 8), np.float32)], []
for row in plan["rows"]:
    x, alpha, sigma = states[-1], row["alpha"], row["sigma"]
    (e,) = network.run(None, {"x": x, "t": np.full(len(x), row["t"], np.float32)})
    (a, b), (p, q) = (PREDICTIONS[name](alpha, sigma) for name in (predicted, row["space"]))
    answers.append(((p * b - q * a) * x + (alpha * q - sigma * p) * e) / (alpha * b - sigma * a))
    state = sum(w * states[i] for i, w in row["states"]) + sum(w * answers[j] for j, w in row["answers"])
    states.append((state + row["noise"] * rng.standard_normal(x.shape)).astype(np.float32))
np.save("digits.npy", states[-1])
print(f"{len(plan['rows'])} calls, pixels from {states[-1].min():.2f} to {states[-1].max():.2f}")
