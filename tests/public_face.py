"""A user's program over the whole public face; public/test_types.py checks its types, and runs it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tqvec
from tqvec import kvcache, oracle, selectors


def search(x: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    index = tqvec.Index(x.shape[1], nbits=4, metric="cosine", codebook="scalar", seed=1)
    training: tqvec.Training = index.train(x, queries=x[:20])
    index.add(x, np.arange(len(x)))
    index.add(x[i : i + 1] for i in range(3))
    index.remove_ids(range(len(x), len(x) + 3))
    index.update(ids=[0], x=x[:1])
    keep: tqvec.Filter = selectors.Range(0, 100) & ~selectors.Ids([3])
    scores, ids = index.search(x[:2], k=3, filter=keep)
    _, _, error = index.search(x[:2], k=3, return_error=True)
    scores, ids = index.search(x[:2], k=3, rerank=x[index.ids], confidence=0.9)
    scores, ids = index.search(x[:2], k=3, rerank=lambda ids: x[ids])
    limits, scores, ids = index.range_search(x[:2], 0.5, filter=range(50))
    diagnosis: tqvec.Diagnosis = index.diagnose(queries=x[:20], sample=x)
    causes: list[str] = [cause.name for cause in diagnosis.causes]
    best: float = max(other.recall for other in diagnosis.alternatives)
    held: int = index.nbytes.codes + index.nbytes.spare
    index.save(path)
    loaded = tqvec.Index.load(path, mmap=True)
    loaded.merge_from(tqvec.Index.load(path)) if loaded.remove_ids(ids) == len(x) else loaded.reset()
    print(training.accepted, limits, causes, best, held, scores + 1, loaded.ntotal)
    return error


def collect(x: NDArray[np.float32], path: Path) -> list[str]:
    with tqvec.Collection(path, d=x.shape[1], metric="l2", keep="float16", indexed=["year"]) as collection:
        collection.upsert(ids=["a", "b"], vectors=x[:2], documents=["one", None], metadatas=[{"year": 1}, None])
        collection.update("b", metadatas=[{"year": 2}])
        result = collection.search(x[:1], k=2, where={"year": {"$gte": 1}}, rerank=True, diversity=0.1)
        texts: list[str | None] = result[0].documents or []
        for page in collection.scan({"year": 2}, batch=10):
            print(page.ids, texts, len(collection), "a" in collection, collection.get("a").metadatas)
        collection.compact()
        problems: list[str] = collection.check()
        print(collection.delete(where={}), collection.info().bytes_per_record)
        return problems + result[0].ids


def convert(path: Path) -> tqvec.Index:
    contents: tqvec.faiss.FaissVectors = tqvec.faiss.read(path)
    return contents.to_index(nbits=2, codebook="trellis")


def encode(x: NDArray[np.float32]) -> NDArray[np.float32]:
    codec = tqvec.TurboQuant(x.shape[1], nbits=2.5, seed=2)
    codes: tqvec.Codes = codec.encode(x, threads=1)
    return codec.inner_product(x[:1], codes) @ codec.decode(codes)


def attend(k: NDArray[np.float32]) -> NDArray[np.float32]:
    cache = kvcache.KVCache(1, k.shape[0], k.shape[2], policy=kvcache.Policy(3, 3, codebook="trellis"))
    cache.append(0, k, k)
    out, skipped = cache.attend(0, k[:, -1:], skip_below=1e-4, return_skipped=True)
    rope = kvcache.Rope(500_000.0, scaling={"rope_type": "linear", "factor": 4.0})
    k = rope.rotate(k, np.arange(k.shape[1]))
    plan: kvcache.Plan = kvcache.plan("llama-3.1-8b", memory="8GiB", policy="turbo3")
    server = kvcache.simulation.Server([kvcache.simulation.MemoryTier.parse("memory:1GiB")])
    model: kvcache.planning.Model = kvcache.planning.find_model("llama-3.1-8b")
    print(plan.max_tokens, server, model.name, cache.nbytes.codes, cache.token_counts(0).recent, skipped.max())
    return out + cache.attend(0, k[:, -1:], window=100, softcap=50.0, sinks=np.zeros(len(k)))


def verify(port: object) -> bool:
    report: oracle.Report = oracle.verify(port, profiles=["tqvec_scalar@2"], dims=[16])
    profile: oracle.Profile = oracle.PROFILES["tqvec_scalar@2"]
    return report.passed and profile.name != ""
