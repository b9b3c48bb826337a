"""The table of EnvPool's families: what runs, what does not, and why."""

import pytest

from experiments import worlds


@pytest.mark.envpool
def test_some_tasks():
  pytest.importorskip("envpool")
  found = worlds.verdicts(
    [
      ("toy_text", "Catch-v0"),
      ("classic_control", "Pendulum-v1"),
      ("classic_control", "CartPole-v1"),
      ("board", "Backgammon-v1"),
    ]
  )
  assert [v.task for v in found if not v.reason] == ["Catch-v0", "CartPole-v1"]
  assert worlds.table(found).splitlines() == [
    "| family | tasks | run | the others |",
    "|---|---|---|---|",
    "| board | 1 | 0 | 1: has players in each environment |",
    "| classic_control | 2 | 1 | 1: has actions float32 |",
    "| toy_text | 1 | 1 |  |",
  ]


def test_reasons_of_a_kind_are_the_same():
  a = ValueError("Reacher-v1 has actions float64 [2]: R2D2 chooses one")
  b = ValueError("Walker-v1 has actions float64 [17]: R2D2 chooses one")
  assert worlds.reason_of(a, "Reacher-v1") == "has actions float64"
  assert worlds.reason_of(b, "Walker-v1") == "has actions float64"
  c = ValueError("Own-v1 cannot start here, EnvPool says: no file /a/b.cfg")
  assert worlds.reason_of(c, "Own-v1") == "cannot start here"
