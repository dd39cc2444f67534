"""Search definitions of WordNet with LlamaIndex, and answer from them; needs ``pip install 'tqvec[llama-index]'``."""

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from tqvec.eval.sample import load_sample
from tqvec.integrations.llama_index import TqvecVectorStore

sample = load_sample()
known = dict(
    zip(sample.base_texts + sample.query_texts, [*sample.base.tolist(), *sample.queries.tolist()], strict=True)
)


class SampleEmbedding(BaseEmbedding):
    """Looks embeddings up; a real one is ``HuggingFaceEmbedding("sentence-transformers/all-MiniLM-L6-v2")``."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return known[text]

    def _get_query_embedding(self, query: str) -> list[float]:
        return known[query]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return known[query]


store = TqvecVectorStore(d=384)  # with a folder as the first argument, a store that stays
index = VectorStoreIndex(
    [
        TextNode(text=text, metadata={"letters": len(text)}, excluded_embed_metadata_keys=["letters"])
        for text in sample.base_texts
    ],
    storage_context=StorageContext.from_defaults(vector_store=store),
    embed_model=SampleEmbedding(),
)
question = sample.query_texts[0]
short = MetadataFilters(filters=[MetadataFilter(key="letters", operator=FilterOperator.LT, value=80)])
print(f"{question}:")
for hit in index.as_retriever(similarity_top_k=3, filters=short).retrieve(question):
    print(f"  {hit.score:.3f}  {hit.text}")
engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=2, vector_store_query_mode="hybrid")
print(engine.query(question))  # a mock answers with its prompt: two definitions, and the question
