"""Semantic search as in sentence-transformers, on 4 bits per number: `python examples/semantic_search.py`.

The embeddings of the sample stand for those of ``SentenceTransformer("all-MiniLM-L6-v2").encode(texts)``.
"""

import tqvec
from tqvec.eval.sample import load_sample
from tqvec.integrations.sentence_transformers import semantic_search


def main():
    sample = load_sample()
    index = tqvec.Index(384, nbits=4, metric="cosine")
    index.add(sample.base)
    exact = 4 * index.d * index.ntotal
    print(f"{index.ntotal:,} embeddings in {index.ntotal * index.code_size:,} bytes, {exact:,} as float32")
    results = semantic_search(sample.queries[:2], index, top_k=3, rerank=sample.base)  # exact scores
    for question, matches in zip(sample.query_texts, results, strict=False):
        print(f"Question: {question}")
        for match in matches:
            print(f"{match['score']:.3f}  {sample.base_texts[match['corpus_id']]}")


if __name__ == "__main__":
    main()
