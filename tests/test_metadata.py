"""License, citation and changelog: they agree with the package."""

import configparser
import hashlib
import pathlib
import re

import r2d2_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _fields(name: str) -> dict[str, str]:
  """The fields of a file's outermost level that fit on a line."""
  text = (ROOT / name).read_text()
  return dict(re.findall(r"^([a-z-]+): (.+)$", text, re.MULTILINE))


def test_the_license_is_the_whole_apache_2():
  text = (ROOT / "LICENSE").read_bytes()
  # That of https://www.apache.org/licenses/LICENSE-2.0.txt.
  assert hashlib.sha256(text).hexdigest() == (
    "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
  )


def test_the_package_names_its_license():
  parser = configparser.ConfigParser()
  parser.read(ROOT / "setup.cfg")
  metadata = parser["metadata"]
  assert (metadata["license"], metadata["license_files"]) == (
    "Apache-2.0",
    "LICENSE",
  )
  assert _fields("CITATION.cff")["license"] == "Apache-2.0"


def test_versions_agree():
  assert _fields("CITATION.cff")["version"] == r2d2_jax.__version__
  changelog = (ROOT / "CHANGELOG.md").read_text()
  headings = re.findall(r"^## \[([^]]+)\]", changelog, re.MULTILINE)
  assert headings[:2] == ["Unreleased", r2d2_jax.__version__]
