"""What `make docs` adds to the pages in docs/ (hooks of MkDocs).

- Pages from elsewhere in the repository, and the notebooks with their outputs.
- The API reference: the names that docs/api.md lists, from their docstrings.
- Links that are right in the repository are made right in the site; those that
  lead to a source file lose the link and keep the words.
- LaTeX becomes MathML, which browsers draw without a script.
"""

import base64
import html
import importlib.util
import json
import pathlib
import posixpath
import re

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Path in the repository -> page of the site, for what is not in docs/.
_ELSEWHERE = {
  "README.md": "overview.md",
  "CONTRIBUTING.md": "contributing.md",
  "CHANGELOG.md": "changelog.md",
  "pretrained/recall/README.md": "pretrained/recall.md",
  "pretrained/catch/README.md": "pretrained/catch.md",
}
# Beside a function of the reference: the class that it returns.
_RETURNED = {
  "load_agent": ("r2d2_jax.system.storage.agents.SavedAgent",),
  "example_batch": ("r2d2_jax.system.example.Example",),
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def notebook_pages() -> dict[str, str]:
  """Page of the site -> the notebook that it shows."""
  return {
    f"notebooks/{path.stem}.md": path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
  }


def on_files(files, config):
  """Adds the generated pages, and the pictures of the notebooks."""
  for source, page in _ELSEWHERE.items():
    text = (ROOT / source).read_text()
    files.append(File.generated(config, page, content=text))
  for page, source in notebook_pages().items():
    text, pictures = notebook_markdown(json.loads((ROOT / source).read_text()))
    stem = page.removesuffix(".md")
    for name, data in pictures.items():
      files.append(File.generated(config, f"{stem}-{name}", content=data))
    text = text.replace("](PICTURE-", f"]({posixpath.basename(stem)}-")
    files.append(File.generated(config, page, content=text))
  for page, text in reference_pages().items():
    files.append(File.generated(config, page, content=text))
  return files


def notebook_markdown(notebook: dict) -> tuple[str, dict[str, bytes]]:
  """A notebook as a page, and its pictures by name, linked as PICTURE-NAME."""
  parts, pictures = [], {}
  for number, cell in enumerate(notebook["cells"]):
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
      parts.append(source)
      continue
    parts.append(f"```python\n{source}\n```")
    for output in cell["outputs"]:
      data = output.get("data", {})
      if picture := data.get("image/png"):
        name = f"{number}-{len(pictures)}.png"
        pictures[name] = base64.b64decode("".join(picture))
        parts.append(f"![figure](PICTURE-{name})")
      else:
        text = "".join(output.get("text", data.get("text/plain", "")))
        parts.append(f"```text\n{text.rstrip()}\n```")
  return "\n\n".join(parts) + "\n", pictures


def reference_pages() -> dict[str, str]:
  """A page for each section of docs/api.md that lists names, in its order."""
  spec = importlib.util.spec_from_file_location(
    "names", ROOT / "r2d2_jax" / "__init__.py"
  )
  names = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(names)
  pages = {}
  text = (ROOT / "docs" / "api.md").read_text()
  for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
    title = section.partition("\n")[0]
    found = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    if found:
      slug = re.sub(r"[^\w]+", "-", title.lower()).strip("-")
      blocks = [
        f"::: {path}"
        for name in found
        for path in (
          f"{names._HOMES.get(name, 'r2d2_jax')}.{name}",
          *_RETURNED.get(name, ()),
        )
      ]
      intro = f"`from r2d2_jax import {', '.join(found[:3])}, ...`"
      pages[f"reference/{slug}.md"] = "\n\n".join(
        [f"# {title}", intro, *blocks, ""]
      )
  return pages


def on_page_markdown(markdown, page, config, files):
  """Makes the repository's links the site's."""
  uri = page.file.src_uri
  sources = {v: k for k, v in _ELSEWHERE.items()} | notebook_pages()
  here = posixpath.dirname(sources.get(uri, f"docs/{uri}"))
  pages = _ELSEWHERE | {v: k for k, v in notebook_pages().items()}

  def moved(match: re.Match) -> str:
    mark, words, link = match.groups()
    path, _, anchor = link.partition("#")
    if not path or re.match(r"[a-z]+:", link):
      return match[0]
    if uri in notebook_pages() and mark:
      return match[0]  # a figure of this page
    target = posixpath.normpath(posixpath.join(here, path))
    if target in pages:
      target = pages[target]
    elif target.startswith("docs/") and files.get_file_from_path(target[5:]):
      target = target[5:]
    elif (ROOT / target).exists():
      return f"{mark}{words}" if not mark else words
    new = posixpath.relpath(target, posixpath.dirname(uri) or ".")
    return f"{mark}[{words}]({new}{'#' + anchor if anchor else ''})"

  # Not in code.
  parts = _FENCE.split(markdown)
  parts[::2] = [_LINK.sub(moved, part) for part in parts[::2]]
  return "".join(parts)


def on_page_content(content, page, config, files):
  """Equations, marked by arithmatex, as MathML."""

  def mathml(match: re.Match) -> str:
    latex = html.unescape(match[2]).strip()[2:-2].strip()
    is_display = match[1] == "div"
    # It knows no \arg, and spaces bars as if they were relations.
    found = convert(
      latex.replace("\\arg", "\\mathrm{arg}\\,"),
      display="block" if is_display else "inline",
    )
    found = re.sub(
      r"<mo[^>]*>&#x0007C;</mo>", '<mo lspace="0" rspace="0">|</mo>', found
    )
    # On a narrow screen a long equation scrolls, not the page.
    scrolling = f'<div style="overflow-x: auto">{found}</div>'
    return scrolling if is_display else found

  return re.sub(
    r'<(span|div) class="arithmatex">(.*?)</\1>',
    mathml,
    content,
    flags=re.DOTALL,
  )
