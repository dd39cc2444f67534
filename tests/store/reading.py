"""Read a collection for some seconds, and check that each answer is that of one commit.

usage: reading.py FOLDER SECONDS
"""

import sys
import time

import numpy as np
import strategies as sts

import tqvec


def main():
    answers, seen = 0, set()
    with tqvec.Collection(sys.argv[1]) as collection:
        collection.search(np.ones(16))
        end = time.monotonic() + float(sys.argv[2])
        while time.monotonic() < end:
            hits = collection.search(np.ones(16), k=50, include=("metadatas", "vectors"))[0]
            versions = {metadata["version"] for metadata in hits.metadatas}
            assert len(hits.ids) in (0, 40), len(hits.ids)
            assert len(versions) <= 1, versions
            for version in versions:
                x = sts.normal(40, 16, 90_000 + version).astype(np.float16).astype(np.float32)
                np.testing.assert_array_equal(hits.vectors, x[[int(name[1:]) for name in hits.ids]])
            seen |= versions
            answers += 1
    print(answers, len(seen))


if __name__ == "__main__":
    main()
