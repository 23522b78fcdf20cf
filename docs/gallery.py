"""Run the gallery, ``gallery.md``, and write it as one page that needs nothing else.

Prints a line for each section as it runs. A cell that fails ends the run with its message.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).parent
SECONDS_FOR_A_CELL = 600


def headings(source: str) -> list[str]:
    """The headings of a Markdown cell, with their #s."""
    return [line for line in source.splitlines() if line.startswith("#")]


class Sections(NotebookClient):
    """Runs a notebook and says which section it is in, and how long the one before it took."""

    since: float | None = None

    async def async_execute_cell(self, cell: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a cell, as the base class does."""
        if cell.cell_type == "markdown" and headings(cell.source):
            self.tell(f"  {headings(cell.source)[-1].lstrip('# ')[:60]:62}")
        return await super().async_execute_cell(cell, *args, **kwargs)

    def tell(self, text: str) -> None:
        """End the line of the section before, and begin one."""
        now = time.monotonic()
        took = "" if self.since is None else f"{now - self.since:5.1f} s\n"
        print(took + text, end="", flush=True)
        self.since = now


def run(source: Path) -> Any:
    """The notebook with its outputs.

    Args:
        source: A Markdown notebook.
    """
    notebook = jupytext.read(source)
    client = Sections(
        notebook, timeout=SECONDS_FOR_A_CELL, kernel_name="python3", extra_arguments=["--log-level=ERROR"]
    )
    client.execute()
    client.tell("")
    return notebook


def page(notebook: Any) -> str:
    """A notebook as an HTML page with its styles and pictures inside.

    Args:
        notebook: One that has run.
    """
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    template = (HERE / "gallery.html.j2").read_text(encoding="utf-8")
    titles = [line[3:] for cell in notebook.cells for line in headings(cell.source) if line.startswith("## ")]
    links = "".join(f'<li><a href="#{title.replace(" ", "-")}">{title}</a></li>' for title in titles)
    body = body.replace("</h1>", f'</h1><nav aria-label="contents"><ul>{links}</ul></nav>', 1)
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    for name, value in (("title", title), ("code", light), ("body", body)):
        template = template.replace(f"{{{{ {name} }}}}", value)
    return template


def main() -> None:
    """Run the gallery and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gallery.html"), help="where to write the page")
    output = parser.parse_args().output
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # what tqdm says without ipywidgets
    print("Running docs/gallery.md:")
    output.write_text(page(run(HERE / "gallery.md")), encoding="utf-8")
    print(f"Written to {output}")


if __name__ == "__main__":
    main()
