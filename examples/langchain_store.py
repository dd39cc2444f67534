"""A retriever of LangChain over definitions of WordNet: `python examples/langchain_store.py`. It needs no model."""

from langchain_core.embeddings import Embeddings

from tqvec.eval.sample import load_sample
from tqvec.integrations.langchain import TqvecVectorStore

SAMPLE = load_sample()
TEXTS, N = [*SAMPLE.base_texts, *SAMPLE.query_texts], len(SAMPLE.base_texts)


class SampleEmbeddings(Embeddings):
    """The embeddings of the sample, by text. In your program: HuggingFaceEmbeddings, OpenAIEmbeddings, …"""

    def __init__(self):
        self.vectors = dict(zip(TEXTS, [*SAMPLE.base, *SAMPLE.queries], strict=True))

    def embed_documents(self, texts):
        return [self.vectors[text].tolist() for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def main():
    store = TqvecVectorStore.from_texts(
        SAMPLE.base_texts,
        SampleEmbeddings(),
        metadatas=[{"length": len(text)} for text in SAMPLE.base_texts],
        ids=[f"w{i}" for i in range(N)],
        path=None,  # a folder keeps them
        indexed=["length"],
    )
    question = SAMPLE.query_texts[0]
    print(f"Question: {question}")
    for document, score in store.similarity_search_with_score(question, k=3):
        print(f"{score:.3f}  {document.id}  {document.page_content}")
    retriever = store.as_retriever(search_kwargs={"k": 3, "filter": {"length": {"$lt": 40}}})
    print("Short ones:")
    for document in retriever.invoke(question):
        print(f"{document.id}  {document.page_content}")


if __name__ == "__main__":
    main()
