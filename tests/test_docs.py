"""The documentation: lines, links, settings, commands and paths are true."""

import importlib.util
import math
import pathlib
import re
import subprocess
import sys

import pytest

from r2d2_jax.config.config import NAMES

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
  ROOT / "README.md",
  ROOT / "CHANGELOG.md",
  ROOT / "CONTRIBUTING.md",
  *sorted((ROOT / "docs").glob("*.md")),
  *sorted((ROOT / "pretrained").glob("*/README.md")),
]
# These two are yet to be rewritten: their lines and paths are not looked at.
_TO_BE_REWRITTEN: set[str] = set()
# Modules of the design that are yet to come.
_TO_COME: set[str] = set()
_COLUMNS = 100
# A word of this length (a URL, the name of a test) cannot be broken: its line
# may be longer. Nothing else may, tables and code included.
_UNBREAKABLE = 80
# Settings by their old names are named here, beside the new ones.
_OLD_NAMES = {"CHANGELOG.md"}

each_page = pytest.mark.parametrize(
  "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)


def _too_long(text: str) -> list[str]:
  return [
    f"line {i}: {len(line)} columns"
    for i, line in enumerate(text.splitlines(), 1)
    if len(line) > _COLUMNS and max(map(len, line.split())) < _UNBREAKABLE
  ]


def _broken_links(text: str, page: pathlib.Path) -> list[str]:
  """Relative links, pictures included, to files and to headings."""
  broken = []
  for link in re.findall(r"\]\(([^)\s]+)\)", text):
    if re.match(r"[a-z]+:", link):
      continue
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    if not target.exists():
      broken.append(link)
    elif heading and heading not in _anchors(target.read_text()):
      broken.append(link)
  return broken


def _anchors(text: str) -> set[str]:
  """The names that GitHub gives to headings."""
  headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
  return {
    re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    for heading in headings
  }


def _unknown_settings(text: str) -> list[str]:
  """`--section.name` and `section.name` in backticks that are no settings."""
  sections = "|".join(sorted({name.partition(".")[0] for name in NAMES}))
  flags = re.findall(rf"--((?:{sections})\.[\w-]+)", text)
  named = re.findall(rf"`((?:{sections})\.(?!csv)[a-z_]+)(?= [^`]*`|`)", text)
  return [
    name
    for name in flags + named
    if not {name.replace("-", "_"), name.replace(".no-", ".").replace("-", "_")}
    & set(NAMES)
  ]


def _unknown_commands(text: str) -> list[str]:
  # In capitals: a placeholder.
  commands = set(
    re.findall(r"python -m ((?:experiments|r2d2_jax)[a-z_.]*)(?![A-Z])", text)
  )
  return [name for name in commands if importlib.util.find_spec(name) is None]


def _unknown_paths(text: str) -> list[str]:
  """Paths from the repository's root, and those in r2d2_jax/ for short."""
  paths = re.findall(
    r"(?<![\w/.-])((?:r2d2_jax|experiments|tests|docs|\.ci)/[\w/.{},*-]*[\w}]/?)(?!\w)",
    text,
  )
  # In capitals: a placeholder.
  paths = [
    path
    for path in paths
    if not re.search(r"/[A-Z]+/?$", path) or path.endswith("README")
  ]
  short = re.findall(
    r"`((?:agent|envs|replay|system|config|ops|video|analysis|cli)/[\w/]+\.py)",
    text,
  )
  return [
    *(path for path in paths if not _is_there(path)),
    *(
      path
      for path in short
      if not _is_there(f"r2d2_jax/{path}") and not _is_there(f"tests/{path}")
    ),
  ]


def _missing_tests(text: str) -> list[str]:
  """Tests named in a list that begins with their file, below tests/."""
  missing = []
  path = None
  for word in re.findall(r"`(\w[\w/]*\.py|test_\w+)`", text):
    if word.endswith(".py"):
      path = ROOT / "tests" / word
    elif path and f"def {word}(" not in path.read_text():
      missing.append(f"{path.name}::{word}")
  return missing


def _is_there(path: str) -> bool:
  if braces := re.search(r"{([^}]*)}", path):
    return all(
      _is_there(path.replace(braces[0], part.strip(), 1))
      for part in braces[1].split(",")
    )
  return bool(list(ROOT.glob(path.rstrip("/"))))


@each_page
def test_lines_are_short(page):
  if page.name not in _TO_BE_REWRITTEN:
    assert not _too_long(page.read_text())


@each_page
def test_links_lead_somewhere(page):
  assert not _broken_links(page.read_text(), page)


@each_page
def test_settings_are_todays(page):
  if page.name not in _OLD_NAMES:
    assert not _unknown_settings(page.read_text())


@each_page
def test_commands_exist(page):
  assert not _unknown_commands(page.read_text())


@each_page
def test_paths_exist(page):
  if page.name not in _TO_BE_REWRITTEN:
    assert not set(_unknown_paths(page.read_text())) - _TO_COME


def test_tests_against_mistakes_exist():
  assert not _missing_tests((ROOT / "docs" / "mistakes.md").read_text())


def test_the_example_of_the_algorithm_runs():
  text = (ROOT / "docs" / "algorithm.md").read_text()
  code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not result.returncode, result.stderr
  losses = [float(line) for line in result.stdout.split()]
  assert len(losses) == 10
  assert all(math.isfinite(loss) and loss > 0 for loss in losses)


def test_all_pages_are_in_the_table_of_contents():
  contents = (ROOT / "docs" / "README.md").read_text()
  for page in (ROOT / "docs").glob("*.md"):
    assert page.name == "README.md" or f"({page.name})" in contents, page.name


def test_all_pages_are_in_the_site():
  nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
  for page in (ROOT / "docs").glob("*.md"):
    assert f": {page.name}\n" in nav, page.name
  for notebook in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
    assert f": notebooks/{notebook.stem}.md\n" in nav, notebook.name
  # Pages of the reference are made from these sections of docs/api.md.
  sections = re.split(
    r"^## ", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE
  )[1:]
  for section in sections:
    if re.search(r"^\| `\w+`", section, re.MULTILINE):
      title = section.partition("\n")[0].lower()
      slug = re.sub(r"[^\w]+", "-", title).strip("-")
      assert f": reference/{slug}.md\n" in nav, title


def test_figures_are_those_of_their_script(tmp_path):
  code = (
    "import pathlib, runpy, sys\n"
    "script = runpy.run_path('docs/figures/draw.py')\n"
    "script['draw'](pathlib.Path(sys.argv[1]))\n"
  )
  subprocess.run(
      [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True
  )  # fmt: skip
  figures = sorted((ROOT / "docs" / "figures").glob("*.svg"))
  assert len(figures) == 3
  for figure in figures:
    assert (tmp_path / figure.name).read_bytes() == figure.read_bytes(), (
      f"{figure.name}: run `python docs/figures/draw.py`"
    )


def test_pictures_are_small():
  pictures = list((ROOT / "docs" / "pictures").iterdir())
  assert pictures
  assert sum(path.stat().st_size for path in pictures) < 300_000


@pytest.mark.parametrize(
  "find, text",
  [
    (_too_long, "word " * 21),
    (_too_long, "| cell " * 15),
    (_unknown_settings, "`--run.eval-episodes 3`"),
    (_unknown_settings, "`run.memory_gib`"),
    (_unknown_settings, "`run.seeds 1`"),
    (_unknown_commands, "python -m experiments.traim --plan"),
    (_missing_tests, "- `test_docs.py`:\n  `test_that_is_not_there`"),
    (_unknown_paths, "see r2d2_jax/system/saved.py"),
    (_unknown_paths, "`system/saved.py: load_agent`"),
    (_unknown_paths, "r2d2_jax/{config,saved}"),
    (lambda text: _broken_links(text, ROOT / "README.md"), "[a](docs/none.md)"),
    (lambda text: _broken_links(text, ROOT / "README.md"), "[a](README.md#no)"),
  ],
)
def test_a_fault_is_found(find, text):
  assert find(text)


@pytest.mark.parametrize(
  "find, text",
  [
    (_too_long, "a " * 30 + "https://" + "x" * 80),
    (_unknown_settings, "`--checkpoint.no-save-replay` `--run.run-dir runs/a`"),
    (_unknown_settings, "`run.total_steps`, `log.csv`, `evaluation.csv`"),
    (_unknown_commands, "python -m experiments.train --plan"),
    (_unknown_commands, "python -m experiments.STUDY --report-only"),
    (_missing_tests, "- `test_docs.py`:\n  `test_commands_exist`"),
    (_unknown_paths, "r2d2_jax/system/{loops,run}, `agent/loss.py: burn_in`"),
    (lambda text: _broken_links(text, ROOT / "README.md"), "[a](docs/runs.md)"),
  ],
)
def test_what_is_right_passes(find, text):
  assert not find(text)
