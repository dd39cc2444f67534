import numpy as np, tqvec, tempfile, shutil, time, json, gzip
D="/work/main/datasets/wordnet_minilm/sample/"
x=np.load(D+"base_f16.npy").astype(np.float32); q=np.load(D+"queries_f16.npy").astype(np.float32)
texts=gzip.open(D+"base_texts.txt.gz","rt").read().splitlines(); qt=gzip.open(D+"query_texts.txt.gz","rt").read().splitlines()
n=len(x); print(x.shape,len(texts),texts[:2])
shutil.rmtree("/tmp/c",ignore_errors=True)
t=time.time()
c=tqvec.Collection("/tmp/c",d=x.shape[1],keep="float16",indexed=["year"])
ids=[f"w{i}" for i in range(n)]
meta=[{"year":1900+i%120,"tags":["a","b"] if i%3 else ["c"],"len":len(texts[i])} for i in range(n)]
for s in range(0,n,3000):
    c.upsert(ids=ids[s:s+3000],vectors=x[s:s+3000],documents=texts[s:s+3000],metadatas=meta[s:s+3000])
print("ingest",time.time()-t, c)
print(c.info())
r=c.search(q[:1],k=5); print(qt[0]); print(r)
print(c.search(q[0],k=3,text=qt[0]))
print(c.search(q[0],k=3,where={"year":{"$gte":2000},"tags":{"$contains":"c"}}))
print(c.search(q[0],k=3,group_by="year",diversity=.3))
print(c.search(q[0],k=3,rerank=True)[0].scores, c.search(q[0],k=3)[0].scores)
print(c.count(), c.count({"year":{"$lt":1910}}), "w5" in c, "zz" in c)
print(c.check())
print(c.delete(where={"year":{"$lt":1950}}), len(c), c.check())
c.compact(); print(c.info(), c.check())
c.update(["w100"],metadatas=[{"year":None,"new":1}]); print(c.get("w100"))
c.partition(); print(c.info()); print(c.search(q[0],k=3))
c.upsert([{"id":"w1","vector":x[1],"document":"hello","source":"s"}]); print(c.get(["w1"]))
c.snapshot("/tmp/c2_%d"%time.time()); print("snap")
print(c.train())
print(c.info(), c.check())
