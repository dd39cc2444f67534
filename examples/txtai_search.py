"""Search definitions of WordNet with txtai, whose vectors tqvec keeps in 4 bits per coordinate."""

from tempfile import TemporaryDirectory

import numpy as np
from txtai import Embeddings

from tqvec.eval.sample import load_sample

BACKEND = "tqvec.integrations.txtai.TqvecANN"
sample = load_sample()
vectors = dict(zip(sample.base_texts + sample.query_texts, np.concatenate([sample.base, sample.queries]), strict=True))


def embed(texts):
    """Return the embeddings of texts; here they are looked up, since no model is at hand."""
    return np.array([vectors[text] for text in texts], np.float32)


config = {"method": "external", "transform": embed, "backend": BACKEND, BACKEND: {"nbits": 4}, "content": True}
question = sample.query_texts[0]
with Embeddings(config) as embeddings, TemporaryDirectory() as folder:
    embeddings.index(sample.base_texts)
    embeddings.save(f"{folder}/words")
    with Embeddings() as loaded:
        loaded.load(f"{folder}/words", config={"transform": embed})
        print(question)
        for result in loaded.search(question, 3):
            print(f"  {result['score']:.3f}  {result['text']}")
