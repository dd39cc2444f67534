"""What mkdocs does beside: run the notebooks in a kernel, and make pages of them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor

_TIMEOUT = 600  # seconds of a cell: kernels may have to be compiled


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, with what its cells print and draw. A cell that fails fails the build."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = PurePosixPath(file.src_uri).with_suffix(".md")
        text, pictures = _run(Path(config.docs_dir, file.src_uri), page.stem)
        files.append(File.generated(config, str(page), content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, str(page.with_name(name)), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to notebooks to their pages, and search in the pages that explain before the reference."""
    if page.file.src_uri == "reference.md":
        page.meta["search"] = {"boost": 0.5}
    return re.sub(r"\]\((?!https?:)([^)#]+)\.ipynb", r"](\1.md", markdown)


def _run(path: Path, name: str) -> tuple[str, dict[str, bytes]]:
    """Return the notebook as Markdown, and its pictures by their names."""
    notebook = nbformat.read(path, as_version=4)
    ExecutePreprocessor(timeout=_TIMEOUT).preprocess(notebook, {"metadata": {"path": str(path.parent)}})
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
    link = f'<a href="../{path.name}" download>Download the notebook</a>\n'
    return f"{text}\n{link}", resources["outputs"]
