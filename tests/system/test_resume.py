"""A run that was killed goes on: in lock-step as if nothing had happened."""

import pytest

from experiments.drills import kills


@pytest.fixture(name="directory", scope="module")
def fixture_directory(tmp_path_factory):
  # Shared: the undisturbed run of a task is done once.
  return tmp_path_factory.mktemp("kills")


def test_lockstep_killed_and_resumed_equals_undisturbed(directory):
  kills.kill_in_lockstep(directory)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save(directory):
  kills.kill_in_lockstep(directory, sabotage="kill-save", at=3)


@pytest.mark.envpool
@pytest.mark.slow
def test_the_games_of_envpool_are_brought_back(directory):
  pytest.importorskip("envpool")
  kills.kill_in_lockstep(directory, task="Catch-v0")
