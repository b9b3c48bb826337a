"""Executes the notebooks beside this file and keeps their outputs in them.

    python docs/notebooks/run.py                          # all of them
    python docs/notebooks/run.py --check one_update.ipynb # writes nothing

Each runs from top to bottom in a namespace of its own, at the repository's
root. What a cell prints, the value of its last line and the figures that it
leaves open become its outputs, as in Jupyter, which is not needed for it.

With --check the outputs must be those that are kept: the same code, and in each
cell the same kinds of output with the same words. Numbers and pictures may
differ, as they do from machine to machine.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
_DPI = 70
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|\bnan\b")


def code_of(cell: dict) -> str:
  """A cell's source as one text."""
  return "".join(cell["source"])


def execute(notebook: dict) -> list[list[dict]]:
  """Runs all code cells; returns the outputs of each, in the format's words."""
  import matplotlib

  matplotlib.use("Agg")
  namespace: dict = {"__name__": "__main__"}
  cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
  return [
    _execute_cell(code_of(cell), number, namespace)
    for number, cell in enumerate(cells, 1)
  ]


def _execute_cell(code: str, number: int, namespace: dict) -> list[dict]:
  from matplotlib import pyplot as plt

  tree = ast.parse(code)
  last = tree.body[-1]
  value = None
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    if isinstance(last, ast.Expr) and not code.rstrip().endswith(";"):
      tree.body.pop()
      exec(compile(tree, f"cell {number}", "exec"), namespace)
      expression = ast.Expression(last.value)
      value = eval(compile(expression, f"cell {number}", "eval"), namespace)
    else:
      exec(compile(tree, f"cell {number}", "exec"), namespace)
  outputs = []
  if text := printed.getvalue():
    outputs.append(
        {"output_type": "stream", "name": "stdout", "text": _lines(text)}
    )  # fmt: skip
  for figure in map(plt.figure, plt.get_fignums()):
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI, bbox_inches="tight")
    picture = base64.b64encode(data.getvalue()).decode()
    outputs.append({
        "output_type": "display_data", "metadata": {},
        "data": {"image/png": picture, "text/plain": ["<Figure>"]},
    })  # fmt: skip
  plt.close("all")
  if value is not None:
    outputs.append({
        "output_type": "execute_result", "execution_count": number,
        "metadata": {}, "data": {"text/plain": _lines(repr(value))},
    })  # fmt: skip
  return outputs


def _lines(text: str) -> list[str]:
  return text.splitlines(keepends=True)


def keep(notebook: dict, outputs: list[list[dict]]) -> None:
  """Writes outputs into a notebook, and to which code they belong."""
  cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
  for number, (cell, found) in enumerate(zip(cells, outputs, strict=True), 1):
    cell["execution_count"], cell["outputs"] = number, found
  notebook["metadata"]["outputs_of_code"] = code_digest(notebook)


def code_digest(notebook: dict) -> str:
  """Tells whether the code is the one that was executed."""
  code = [code_of(c) for c in notebook["cells"] if c["cell_type"] == "code"]
  return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def differences(notebook: dict, outputs: list[list[dict]]) -> list[str]:
  """What makes kept outputs another code's; [] where they are this one's."""
  found = []
  if notebook["metadata"].get("outputs_of_code") != code_digest(notebook):
    found.append("the code has changed since its outputs were kept")
  kept = [c["outputs"] for c in notebook["cells"] if c["cell_type"] == "code"]
  for number, (old, new) in enumerate(zip(kept, outputs, strict=True), 1):
    if (a := list(map(_words, old))) != (b := list(map(_words, new))):
      found.append(f"code cell {number}: expected {a}, got {b}")
  return found


def _words(output: dict) -> tuple:
  """An output without its numbers and pixels."""
  data = output.get("data", {})
  text = "".join(output.get("text", data.get("text/plain", [])))
  text = " ".join(_NUMBER.sub("#", text).split())
  # A row more or less, where a clock decides.
  text = re.sub(r"(\S.*?)(?: \1)+", r"\1", text)
  return output["output_type"], sorted(data), text


def main() -> int:
  """Runs the command; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", help="of notebooks; none for all")
  parser.add_argument("--check", action="store_true", help="write nothing")
  arguments = parser.parse_args()
  root = HERE.parents[1]
  os.chdir(root)
  sys.path.insert(0, str(root))
  faults = 0
  paths = [HERE / name for name in arguments.names]
  for path in paths or sorted(HERE.glob("*.ipynb")):
    notebook = json.loads(path.read_text())
    if arguments.check:
      with tempfile.TemporaryDirectory() as elsewhere:
        # What a notebook takes for the root: its runs/ is not the user's.
        (pathlib.Path(elsewhere) / "pretrained").symlink_to(root / "pretrained")
        os.chdir(elsewhere)
        outputs = execute(notebook)
        os.chdir(root)
      for fault in differences(notebook, outputs):
        faults += 1
        print(f"{path.name}: {fault}; run `make notebooks`", file=sys.stderr)
    else:
      outputs = execute(notebook)
      keep(notebook, outputs)
      text = json.dumps(notebook, indent=1, ensure_ascii=False)
      path.write_text(text + "\n")
      print(f"wrote {path.name}, {path.stat().st_size / 1000:.0f} kB")
  return 1 if faults else 0


if __name__ == "__main__":
  sys.exit(main())
