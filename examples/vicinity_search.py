"""Search definitions of WordNet with vicinity, whose vectors tqvec keeps in 4 bits per coordinate."""

from tempfile import TemporaryDirectory

import numpy as np

from tqvec.eval.sample import load_sample
from tqvec.integrations.vicinity import TqvecVicinity

sample = load_sample()
words = TqvecVicinity.from_vectors_and_items(sample.base, sample.base_texts, metric="cosine", nbits=4)
words.delete(sample.base_texts[:10])
words.insert(["a definition of mine"], np.asarray(sample.queries[1:2]))

with TemporaryDirectory() as folder:
    words.save(f"{folder}/words")
    words = TqvecVicinity.load(f"{folder}/words")

for text, query in zip(sample.query_texts[:2], sample.queries[:2], strict=True):
    print(text)
    for item, distance in words.query(query, k=3)[0]:
        print(f"  {distance:.3f}  {item}")
