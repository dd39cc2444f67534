"""The Gradio page: a tab to search, and a tab to plan a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from tqvec import _present
from tqvec.cli.page.cache_plans import POLICIES, plan_growth
from tqvec.cli.page.charts import draw_growth, draw_scores
from tqvec.cli.page.comparing import Comparer, Setting
from tqvec.cli.page.queries import Queries
from tqvec.errors import TqvecError
from tqvec.kvcache.planning import list_models

WIDTHS = (1, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)
LENGTHS = (1, 5, 10, 20)
_LONGEST = 1000  # characters of a query
_EXAMPLES = 4
_RULES = {
    "trigger_mode": "always_last",  # a click while an answer is pending counts
    "concurrency_id": "page",  # one answer at a time: another would slow down what is timed
    "api_visibility": "private",
}
_START = ("llama-3.1-8b", "128k", "8GiB", ["fp16", "turbo4", "turbo3", "turbo2"])

CSS = """
.results {overflow-x: auto}
.results table {border-collapse: collapse; margin: 0.6em 0; width: auto}
.results :is(th, td) {border: 1px solid var(--border-color-primary) !important; padding: 0.2em 0.7em;
  text-align: left; vertical-align: top; font-variant-numeric: tabular-nums}
.results caption {text-align: left; font-weight: 600}
.results p {margin: 0.3em 0}
.results img {width: 100%; max-width: 900px; background: white}
.results [role=alert] {border-left: 4px solid #c0392b; padding: 0.5em 1em}
"""


def make_theme() -> Any:
    """Return a theme whose fonts are those of the reader's machine: Gradio's own come from the network."""
    themes = _present.import_optional("gradio.themes", "--page", "page")
    plain = themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return plain.set(body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600")  # for contrast


def make_layout(comparer: Comparer, queries: Queries) -> Any:
    """Return the `gradio.Blocks` of the page.

    Parameters
    ----------
    comparer : Comparer
    queries : Queries
    """
    gr = _present.import_optional("gradio", "--page", "page")
    with gr.Blocks(title="tqvec", analytics_enabled=False) as blocks:
        gr.Markdown("# tqvec\nVectors in 1 to 8 bits per coordinate, searched in compressed form.")
        with gr.Tab("Search"):
            _add_search(gr, blocks, comparer, queries)
        with gr.Tab("KV cache"):
            _add_plans(gr, blocks)
    return blocks


def _add_search(gr: Any, blocks: Any, comparer: Comparer, queries: Queries) -> None:
    """Add the tab whose query is searched exactly and in compressed form."""

    def answer(text: str, nbits: float, codebook: Any, trained: bool, k: int) -> str:
        query = queries.find(text)
        comparison = comparer.compare(query.vector, k, Setting(nbits, codebook, trained))
        return (
            f'<p role="status">{escape(query.note)}</p>{draw_scores(comparison)}'
            f"{comparison.summary().to_html()}{comparison.table().to_html()}"
        )

    gr.Markdown(
        f"Type a query. The nearest of {comparer.n:,} WordNet definitions are searched twice: in vectors of "
        f"{comparer.d} float32 numbers, and in compressed ones."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            text = gr.Textbox(queries.texts[0], label="Query", lines=2, max_length=_LONGEST, submit_btn=False)
            button = gr.Button("Search", variant="primary")
            nbits = gr.Radio(WIDTHS, value=2, label="Bits per coordinate")
            codebook = gr.Radio(["scalar", "trellis"], value="scalar", label="Codebook", info="trellis: 1 to 5 bits")
            trained = gr.Checkbox(label="Trained on the vectors", info="takes some seconds, once per setting")
            k = gr.Radio(LENGTHS, value=10, label="Results (k)")
            examples = gr.Examples([[text] for text in queries.texts[:_EXAMPLES]], [text], label="Stored queries")
        with gr.Column(scale=3):
            results = gr.HTML(elem_classes="results", elem_id="results")
    inputs = [text, nbits, codebook, trained, k]
    triggers = [blocks.load, button.click, text.submit, nbits.change, codebook.change, trained.change, k.change]
    show = _with_messages(answer)
    gr.on(triggers, show, inputs, results, **_RULES)
    examples.load_input_event.then(show, inputs, results, **_RULES)


def _add_plans(gr: Any, blocks: Any) -> None:
    """Add the tab that plans the memory of a KV cache."""

    def answer(model: str, context: str, memory: str, policies: list[str]) -> str:
        growth = plan_growth(model, context, memory, policies)
        return draw_growth(growth) + growth.summary().to_html()

    gr.Markdown("Choose a model, a context and a memory: how many bytes its keys and values take, and what fits.")
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            model = gr.Dropdown(list(list_models()), value=_START[0], label="Model")
            context = gr.Textbox(_START[1], label="Context", info="tokens: 131072 or 128k; empty: the model's own")
            memory = gr.Textbox(_START[2], label="Memory for the cache", info="with a unit: 8GiB or 16GB; empty: none")
            policies = gr.Dropdown(list(POLICIES), value=_START[3], multiselect=True, label="Policies and formats")
            button = gr.Button("Plan", variant="primary")
        with gr.Column(scale=3):
            results = gr.HTML(elem_classes="results", elem_id="plans")
    triggers = [blocks.load, button.click, context.submit, memory.submit, model.change, policies.change]
    gr.on(triggers, _with_messages(answer), [model, context, memory, policies], results, **_RULES)


def _with_messages(answer: Callable[..., str]) -> Callable[..., str]:
    """Return a function that shows an error as a message in place of results."""

    def show(*values: Any) -> str:
        try:
            return answer(*values)
        except TqvecError as error:
            return f'<p role="alert">{escape(str(error))}</p>'

    return show
