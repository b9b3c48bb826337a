"""A stepper: this package's learner step. Run by the leg `learner`."""

import sys

import jax
import numpy as np

from experiments.benchmark.children import serve
from experiments.benchmark.workload import LearnerAlone, reference_config
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


def main() -> None:
  """Arguments: a batch of BATCHES, and a file for what torch_step needs."""
  batch, path = sys.argv[1:]
  learner = LearnerAlone(reference_config(batch))
  np.savez(
    path,
    **{f"batch/{k}": v for k, v in batch_arrays(learner.batch).items()},
    **{
      f"parameter/{k}": v for k, v in torch_parameters(learner.params).items()
    },
  )
  loss = float(learner.update()["loss"])
  serve(learner.update, loss=loss, version=jax.__version__)


if __name__ == "__main__":
  main()
