"""A stepper: the same update or step by hand in PyTorch, to compare with.

Run beside jax_step, maybe with another interpreter: needs torch and numpy
alone. Same inputs (single uint8 frames and the three stored ones), same
network, same loss, same outputs: parameters, new priorities. Written for speed:
one stack of frames for both networks in channels-last order, the target network
without gradients and its heads over the trained rows alone, the fused Adam,
every core; on a card cuDNN's LSTM, and TF32, as XLA takes it. The batch has no
episode's beginning and no padding, so nothing is spent on them.
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

  def __init__(self, parameters: dict[str, torch.Tensor], dtype: str):
    super().__init__()
    self._is_bfloat16 = dtype == "bfloat16"
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
    """[T, B, 4, 84, 84] in [0, 1], [T, B, A + 1], (h, c) -> outputs, state.

    Parameters and results are float32, whatever it computes with.
    """
    rows = stacks.shape[:2]
    with torch.autocast(
      stacks.device.type, torch.bfloat16, enabled=self._is_bfloat16
    ):
      y = self.convolutions(stacks.flatten(0, 1))
      # Free in channels-last order: features in the order [h, w, channel].
      y = F.relu(self.linear(y.permute(0, 2, 3, 1).flatten(1)))
      y = torch.cat([y.unflatten(0, rows), extras], dim=-1)
      outputs, state = self.lstm(y, state)
    return outputs.float(), tuple(x.float() for x in state)

  def heads(self, x):
    """[T, B, D] -> q [T, B, A]."""
    value = self.value(F.relu(self.value_hidden(x)))
    advantage = self.advantage(F.relu(self.advantage_hidden(x)))
    return value + advantage - advantage.mean(-1, keepdim=True)


class Learner:
  """One batch, again and again."""

  def __init__(
    self,
    arrays: dict[str, np.ndarray],
    burn_in: int,
    *,
    dtype: str,
    device: str,
  ):
    self._burn_in = burn_in
    self._device = device
    self._batch = {k: v.to(device) for k, v in _part(arrays, "batch/").items()}
    parameters = _part(arrays, "parameter/")
    self._online = Network(parameters, dtype).to(device)
    self._target = Network(parameters, dtype).to(device).requires_grad_(False)
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
    _synchronize(self._device)
    return loss.item()


class Actor:
  """Greedy steps of some lanes over two sets of frames, in turns.

  Frames start on the host, actions end there.
  """

  def __init__(self, arrays: dict[str, np.ndarray], *, dtype: str, device: str):
    self._obs_t = torch.from_numpy(arrays["obs_t"])
    lanes = self._obs_t.shape[1]
    self._device = device
    self._network = Network(_part(arrays, "parameter/"), dtype).to(device)
    self._network.requires_grad_(False)
    zeros = lambda *shape: torch.zeros(shape, device=device)
    units = self._network.lstm.hidden_size
    self._state = (zeros(1, lanes, units), zeros(1, lanes, units))
    self._stack = zeros(lanes, 4, *self._obs_t.shape[2:]).to(
      memory_format=torch.channels_last
    )
    self._a_tm1 = zeros(lanes).long()
    self._r_t = zeros(lanes, 1)
    self._num_steps = 0

  @torch.no_grad()
  def step(self) -> torch.Tensor:
    """One step of all lanes; their values. The actions are on the host."""
    obs_t = self._obs_t[self._num_steps % 2].to(self._device)
    self._num_steps += 1
    new = obs_t[:, None].float().div_(255)
    self._stack = torch.cat([self._stack[:, 1:], new], dim=1)
    actions = self._network.advantage.out_features
    extras = torch.cat(
      [F.one_hot(self._a_tm1, actions).float(), self._r_t], dim=-1
    )
    outputs, self._state = self._network.core(
      self._stack[None], extras[None], self._state
    )
    q = self._network.heads(outputs)[0]
    self._a_tm1 = q.argmax(-1)
    self._a_tm1.cpu()
    return q


def _part(
  arrays: dict[str, np.ndarray], prefix: str
) -> dict[str, torch.Tensor]:
  return {
    k.removeprefix(prefix): torch.from_numpy(v)
    for k, v in arrays.items()
    if k.startswith(prefix)
  }


def _synchronize(device: str) -> None:
  if device == "cuda":
    torch.cuda.synchronize()


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


def _about(device: str) -> dict:
  return {
    "version": torch.__version__,
    "peak_bytes": torch.cuda.max_memory_allocated()
    if device == "cuda"
    else None,
  }


def main() -> None:
  """Arguments: learn, jax_step's file, rows of burn-in, dtype, device; or act,
  jax_step's file, dtype, device."""
  what, path, *burn_in, dtype, device = sys.argv[1:]
  # torch's own default leaves out hyper-threads, which XLA uses.
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.backends.cuda.matmul.allow_tf32 = True
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  with np.load(path, allow_pickle=False) as arrays:
    arrays = dict(arrays)
  if what == "learn":
    learner = Learner(arrays, int(*burn_in), dtype=dtype, device=device)
    loss = learner.update()
    serve(learner.update, loss=loss, **_about(device))
  else:
    actor = Actor(arrays, dtype=dtype, device=device)
    q = float(actor.step().mean())
    serve(actor.step, q=q, **_about(device))


if __name__ == "__main__":
  main()
