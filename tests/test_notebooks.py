"""The notebooks run from top to bottom, and what they show is their own."""

import copy
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

_spec = importlib.util.spec_from_file_location(
  "notebook_runner", ROOT / "docs" / "notebooks" / "run.py"
)
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)


def test_there_are_four_and_they_are_small():
  assert len(NOTEBOOKS) == 4
  assert sum(path.stat().st_size for path in NOTEBOOKS) < 500_000


# Half a minute of work each: on a machine that is busy, minutes.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_the_outputs_that_are_kept(path):
  result = subprocess.run(
      [sys.executable, "docs/notebooks/run.py", "--check", path.name],
      cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr


def _notebook(*sources):
  cells = [
    {"cell_type": "code", "source": [source], "outputs": []}
    for source in sources
  ]
  return {"cells": cells, "metadata": {}}


def test_outputs_are_what_jupyter_shows():
  notebook = _notebook(
    "import matplotlib.pyplot as plt\nx = 2\nprint('x is', x)\nx + 1",
    "plt.plot([x, 3]);",
  )
  first, second = runner.execute(notebook)
  assert [o["output_type"] for o in first] == ["stream", "execute_result"]
  assert first[0]["text"] == ["x is 2\n"]
  assert first[1]["data"] == {"text/plain": ["3"]}
  assert [o["output_type"] for o in second] == ["display_data"]
  assert second[0]["data"]["image/png"].startswith("iVBOR")


def test_outputs_of_other_code_are_found():
  notebook = _notebook("print('loss', 1.5)", "3")
  runner.keep(notebook, runner.execute(notebook))
  assert runner.differences(notebook, runner.execute(notebook)) == []
  # Another machine's number is none.
  rounded = copy.deepcopy(notebook)
  rounded["cells"][0]["outputs"][0]["text"] = ["loss 1.4e-05\n"]
  assert runner.differences(rounded, runner.execute(notebook)) == []
  words = copy.deepcopy(notebook)
  words["cells"][0]["outputs"][0]["text"] = ["gain 1.5\n"]
  (fault,) = runner.differences(words, runner.execute(notebook))
  assert "code cell 1" in fault and "gain" in fault
  code = json.loads(json.dumps(notebook).replace("1.5)", "2.5)"))
  (fault,) = runner.differences(code, runner.execute(code))
  assert "the code has changed" in fault
