"""A stepper: the same update written by hand in PyTorch, to compare with.

Run by the leg `learner`, maybe with another interpreter: needs torch and numpy
alone. Same inputs (single uint8 frames and the three stored ones), same
network, same loss, same outputs: parameters, new priorities. Written for speed:
one stack of frames for both networks in channels-last order, the target network
without gradients and its heads over the trained rows alone, the fused Adam,
every core. The batch has no episode's beginning and no padding, so nothing is
spent on them.
"""

import os
import sys

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from experiments.benchmark.children import serve

# The defaults of r2d2_jax.config, which this interpreter may be unable to
# import.
_N_STEP = 5
_DISCOUNT = 0.997
_RESCALING_EPSILON = 1e-3
_ETA = 0.9
_IMPORTANCE_EXPONENT = 0.6
_LEARNING_RATE = 1e-4
_ADAM_EPSILON = 1e-3
_MAX_GRAD_NORM = 40.0
_TARGET_PERIOD_UPDATES = 2500


class Network(nn.Module):
  """Nature convolutions, linear, LSTM, duelling heads; sizes as given."""

  def __init__(self, parameters: dict[str, torch.Tensor]):
    super().__init__()
    layers = []
    for i, stride in enumerate((4, 2, 1)):
      outputs, inputs, size, _ = parameters[
        f"convolutions.{2 * i}.weight"
      ].shape
      layers += [nn.Conv2d(inputs, outputs, size, stride), nn.ReLU(True)]
    self.convolutions = nn.Sequential(*layers)

    def linear(name):
      outputs, inputs = parameters[f"{name}.weight"].shape
      return nn.Linear(inputs, outputs)

    self.linear = linear("linear")
    units, inputs = parameters["lstm.weight_ih_l0"].shape
    self.lstm = nn.LSTM(inputs, units // 4)
    self.value_hidden = linear("value_hidden")
    self.value = linear("value")
    self.advantage_hidden = linear("advantage_hidden")
    self.advantage = linear("advantage")
    self.load_state_dict(parameters)
    self.to(memory_format=torch.channels_last)

  def core(self, stacks, extras, state):
    """[T, B, 4, 84, 84] in [0, 1], [T, B, A + 1], (h, c) -> outputs, state."""
    rows = stacks.shape[:2]
    y = self.convolutions(stacks.flatten(0, 1))
    # Free in channels-last order: features in the order [h, w, channel].
    y = F.relu(self.linear(y.permute(0, 2, 3, 1).flatten(1)))
    y = torch.cat([y.unflatten(0, rows), extras], dim=-1)
    return self.lstm(y, state)

  def heads(self, x):
    """[T, B, D] -> q [T, B, A]."""
    value = self.value(F.relu(self.value_hidden(x)))
    advantage = self.advantage(F.relu(self.advantage_hidden(x)))
    return value + advantage - advantage.mean(-1, keepdim=True)


class Learner:
  """One batch, again and again."""

  def __init__(self, arrays: dict[str, np.ndarray], burn_in: int):
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    parameters, batch = (
      {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(p)}
      for p in ("parameter/", "batch/")
    )
    self._burn_in = burn_in
    self._batch = batch
    self._online = Network(parameters)
    self._target = Network(parameters).requires_grad_(False)
    self._optimizer = torch.optim.Adam(
      self._online.parameters(),
      lr=_LEARNING_RATE,
      eps=_ADAM_EPSILON,
      fused=True,
    )
    self._num_updates = 0
    self.priorities = None

  def update(self) -> float:
    """One update; its loss."""
    batch, burn_in = self._batch, self._burn_in
    obs_t, a_tm1, r_t, a_t, discount_t = (
      batch[k].transpose(0, 1)
      for k in ("obs_t", "a_tm1", "r_t", "a_t", "discount_t")
    )
    stacks = _stacks(obs_t, batch["frames"].transpose(0, 1))
    actions = self._online.advantage.out_features
    extras = torch.cat(
      [F.one_hot(a_tm1.long(), actions).float(), r_t[..., None]], dim=-1
    )
    state = (batch["h"][None], batch["c"][None])
    with torch.no_grad():
      _, trace_state = self._online.core(
        stacks[:burn_in], extras[:burn_in], state
      )
      outputs, _ = self._target.core(stacks, extras, state)
      target_q = self._target.heads(outputs[burn_in:])
    outputs, _ = self._online.core(
      stacks[burn_in:], extras[burn_in:], trace_state
    )
    q = self._online.heads(outputs)

    with torch.no_grad():
      best = q[1:].argmax(-1, keepdim=True)
      v_t = _rescale_inverse(target_q[1:].gather(-1, best)[..., 0])
      d_t = _DISCOUNT * discount_t[burn_in + 1 :]
      returns = r_t[burn_in + 1 :] + d_t * v_t
      for _ in range(_N_STEP - 1):
        returns = r_t[burn_in + 1 :] + d_t * torch.cat([returns[1:], v_t[-1:]])
      target = _rescale(returns)
      p = batch["probability"]
      weights = (p.min() / p) ** _IMPORTANCE_EXPONENT
    taken = q[:-1].gather(-1, a_t[burn_in:-1].long()[..., None])[..., 0]
    td_error = target - taken
    loss = (weights * 0.5 * td_error.square().sum(0)).mean()

    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(self._online.parameters(), _MAX_GRAD_NORM)
    self._optimizer.step()
    with torch.no_grad():
      absolute = td_error.abs()
      self.priorities = _ETA * absolute.amax(0) + (1 - _ETA) * absolute.mean(0)
    self._num_updates += 1
    if self._num_updates % _TARGET_PERIOD_UPDATES == 0:
      self._target.load_state_dict(self._online.state_dict())
    return loss.item()


def _stacks(obs_t, frames):
  """Single frames [T, B, H, W] -> stacks of 4 [T, B, 4, H, W], in [0, 1].

  Channels last in memory, and floats before they are stacked: the fastest of
  the orders that were tried.
  """
  everything = torch.cat([frames, obs_t]).float().div_(255)
  rows = len(obs_t)
  stacks = torch.stack([everything[i : i + rows] for i in range(4)], dim=-1)
  return stacks.permute(0, 1, 4, 2, 3)


def _rescale(x):
  return x.sign() * ((x.abs() + 1).sqrt() - 1) + _RESCALING_EPSILON * x


def _rescale_inverse(y):
  b = 1 + 2 * _RESCALING_EPSILON
  magnitude = y.abs()
  u = 2 * magnitude / (b + (b * b + 4 * _RESCALING_EPSILON * magnitude).sqrt())
  return y.sign() * u * (u + 2)


def main() -> None:
  """Arguments: the file that jax_step wrote, and the rows of burn-in."""
  path, burn_in = sys.argv[1:]
  # torch's own default leaves out hyper-threads, which XLA uses.
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  with np.load(path, allow_pickle=False) as arrays:
    learner = Learner(dict(arrays), int(burn_in))
  loss = learner.update()
  serve(learner.update, loss=loss, version=torch.__version__)


if __name__ == "__main__":
  main()
