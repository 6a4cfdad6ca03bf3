"""The bundled digits network as digits.onnx and a plan for it as plan.json, for runtimes without this library."""

from __future__ import annotations

from pathlib import Path

import torch

from pndm_solvers.reference import load_network

network = load_network("digits")
x, t = torch.randn(2, *network.shape), torch.rand(2)
samples = torch.export.Dim("samples")
torch.onnx.export(
    network.unet,
    (x, t),
    "digits.onnx",
    input_names=["x", "t"],
    output_names=["answer"],
    dynamic_shapes={"x": {0: samples}, "t": {0: samples}},
    external_data=False,
    verbose=False,
)
plan = network.fitted().plan(max_model_calls=8)  # any plan will do
Path("plan.json").write_text(plan.to_json(), encoding="utf-8")
print(f"digits.onnx: {network.prediction}; plan.json: {plan.name}, {plan.model_calls} calls")
