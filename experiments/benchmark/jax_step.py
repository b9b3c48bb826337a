"""A stepper: this package's learner or actor step, beside torch_step's."""

import sys

import jax
import numpy as np

from experiments.benchmark.children import serve
from experiments.benchmark.workload import (
  InferenceAlone,
  LearnerAlone,
  reference_config,
)
from r2d2_jax.types import Params, ReplaySample


def torch_parameters(params: Params) -> dict[str, np.ndarray]:
  """The network's parameters under the names and in the layout of torch_step.

  Convolutions [out, in, h, w], products [out, in]; the LSTM's gates are i, f,
  g, o in both, its second bias is 0.
  """
  params = params["params"]
  torso, core = params["torso"], params["core"]
  named = {}
  for i in range(3):
    conv = torso[f"conv_{i}"]
    named[f"convolutions.{2 * i}.weight"] = conv["kernel"].transpose(3, 2, 0, 1)
    named[f"convolutions.{2 * i}.bias"] = conv["bias"]
  named["lstm.weight_ih_l0"] = core["w_x"].T
  named["lstm.weight_hh_l0"] = core["w_h"].T
  named["lstm.bias_ih_l0"] = core["b"]
  named["lstm.bias_hh_l0"] = np.zeros_like(core["b"])
  for name, dense in (
    ("linear", torso["dense"]),
    *(
      (name, params[name])
      for name in ("value_hidden", "value", "advantage_hidden", "advantage")
    ),
  ):
    named[f"{name}.weight"] = dense["kernel"].T
    named[f"{name}.bias"] = dense["bias"]
  return {k: np.ascontiguousarray(v) for k, v in named.items()}


def batch_arrays(batch: ReplaySample) -> dict[str, np.ndarray]:
  """The batch as torch_step reads it: [B, L, ...], the state [B, ...]."""
  sequence, state = batch.sequence, batch.sequence.core_state
  return {
    "obs_t": sequence.inputs.obs_t,
    "a_tm1": sequence.inputs.a_tm1,
    "r_t": sequence.inputs.r_t,
    "a_t": sequence.a_t,
    "discount_t": sequence.discount_t,
    "frames": state.frames,
    "c": state.carry[0],
    "h": state.carry[1],
    "probability": batch.probability,
  }


def _learn(batch: str, dtype: str, path: str) -> None:
  """Updates, again and again, on the batch that it leaves for torch_step."""
  learner = LearnerAlone(reference_config(batch, dtype))
  np.savez(
    path,
    **{f"batch/{k}": v for k, v in batch_arrays(learner.batch).items()},
    **{
      f"parameter/{k}": v for k, v in torch_parameters(learner.params).items()
    },
  )
  loss = float(learner.update()["loss"])
  serve(learner.update, loss=loss, **_about())


def _act(lanes: str, dtype: str, path: str) -> None:
  """Steps of so many lanes, on the frames that it leaves for torch_step."""
  inference = InferenceAlone(reference_config("big", dtype), int(lanes))
  np.savez(
    path,
    obs_t=inference.obs_t,
    **{
      f"parameter/{k}": v for k, v in torch_parameters(inference.params).items()
    },
  )
  q = float(np.asarray(inference.step().q_t).mean())
  serve(lambda: np.asarray(inference.step().a_t), q=q, **_about())


def _about() -> dict:
  """The device, and the memory that it has held at most; None on a host."""
  (device, *_) = jax.local_devices()
  return {
    "platform": device.platform,
    "kind": device.device_kind,
    "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
  }


def main() -> None:
  """Arguments: learn or act, a batch of BATCHES or lanes, dtype, a file."""
  what, *arguments = sys.argv[1:]
  {"learn": _learn, "act": _act}[what](*arguments)


if __name__ == "__main__":
  main()
