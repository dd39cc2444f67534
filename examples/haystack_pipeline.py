"""A Haystack pipeline that searches definitions of WordNet by meaning and by words, offline.

pip install 'tqvec[haystack]'
python examples/haystack_pipeline.py
"""

from haystack import Document, Pipeline, component

from tqvec.eval.sample import load_sample
from tqvec.integrations.haystack import TqvecDocumentStore, TqvecHybridRetriever

SAMPLE = load_sample()


@component
class SampleTextEmbedder:
    """Looks up the embedding of a query of the sample; in its place: SentenceTransformersTextEmbedder."""

    @component.output_types(embedding=list[float])
    def run(self, text: str):
        return {"embedding": SAMPLE.queries[SAMPLE.query_texts.index(text)].astype(float).tolist()}


def main():
    store = TqvecDocumentStore(embedding_dim=384, indexed=["meta.words"])  # with a path, it stays on the disk
    store.write_documents(
        [
            Document(content=text, embedding=vector.astype(float).tolist(), meta={"words": len(text.split())})
            for text, vector in zip(SAMPLE.base_texts, SAMPLE.base, strict=True)
        ]
    )
    pipeline = Pipeline()
    pipeline.add_component("embedder", SampleTextEmbedder())
    short = {"field": "meta.words", "operator": "<=", "value": 12}
    pipeline.add_component("retriever", TqvecHybridRetriever(store, filters=short, top_k=3))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")

    question = "any of various salads having chopped potatoes as the base"
    result = pipeline.run({"embedder": {"text": question}, "retriever": {"query": question}})
    print(question)
    for document in result["retriever"]["documents"]:
        print(f"  {document.score:.3f}  {document.content}")


if __name__ == "__main__":
    main()
