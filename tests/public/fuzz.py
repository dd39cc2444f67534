"""Call the whole public face with wrong types, sizes and states; report what is no error of tqvec's own.

    python tests/public/fuzz.py --minutes 10 --seed 1

The calls run in a child process. If the interpreter dies, the parent prints the last call.
Arguments are drawn from values of all kinds, right and wrong ones. Objects live on from call to call, so that they get
into states that nobody thought of. A call may return anything, and may raise an error of tqvec, or an `OSError` that
names a path. Anything else is a finding.
"""

import argparse
import copy
import enum
import inspect
import io
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

import tqvec
from tqvec import kvcache, selectors
from tqvec.errors import TqvecError
from tqvec.kvcache import planning, quality, simulation

WIDTH = 16  # dimension of most right values
HOOKS = {"rows_of"}  # for selectors of one's own: an index calls it
AWAITED = {"asearch", "aget", "acount", "aupsert", "aupdate", "adelete"}  # the same calls, in threads
INPUTS = (
    kvcache.Bands,
    kvcache.Rope,
    planning.LayerKind,
    planning.Model,
    quality.CapturedLayer,
    simulation.Clock,
    simulation.MemoryTier,
    simulation.Request,
    simulation.Server,
    simulation.Workload,
    selectors.Ids,
    selectors.Mask,
    selectors.Range,
)
SLOW = {  # called less often than others
    *("diagnose", "train", "partition", "compact", "snapshot"),
    *("allocate", "simulate", "generate_requests"),
}


class Stranger:
    """An object that nothing knows."""


class Fails:
    """An object whose every use fails."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no array")

    def __len__(self):
        raise RuntimeError("no length")

    def __index__(self):
        raise TypeError("no index")


class Colour(enum.Enum):
    """An enumeration of somebody else."""

    RED = 1


def numbers(random):
    """A number, or something else in its place."""
    integers = [0, 1, 2, 3, 4, 5, 7, 8, 10, 16, 64, -1, -(2**63), 2**31, 2**63, 10**30, True]
    floats = [2.5, 3.5, 0.5, 0.99, 1e-300, -0.0, float("nan"), float("inf")]
    scalars = [np.int8(4), np.float32(0.5), np.uint64(2**63), 1j, np.array(3), np.datetime64("NaT")]
    others = [
        "4",
        "8GiB",
        "128k",
        "",
        None,
        b"4",
        [],
        [4],
        (8, 2),
        [(8, 2), (8, 4)],
        {},
        Stranger(),
        Fails(),
        Colour.RED,
    ]
    return random.choice([*integers, *floats, *scalars, *others])


def words(random):
    """A text that some argument takes, or another object."""
    names = [
        "ip",
        "cosine",
        "l2",
        "scalar",
        "trellis",
        "hadamard",
        "dense",
        "mse",
        "prod",
        "unbiased",
        "turbo3",
        "turbo4",
    ]
    names += [
        "exact",
        "fp16",
        "llama-3.1-8b",
        "ring",
        "full",
        "8GiB",
        "128k",
        "chat",
        "lru",
        "paper_mse",
        "",
        "\0",
        "é" * 300,
    ]
    return random.choice([*names, None, 3, b"ip", [], Colour.RED, Fails(), "ip ", "IP"])


def arrays(random, rng):
    """An array of vectors, in a form that may be wrong."""
    n, d = random.choice([0, 1, 2, 3, 5, 100, 300]), random.choice([WIDTH] * 8 + [0, 1, WIDTH - 1, WIDTH + 1, 64])
    x = rng.standard_normal((n, d)).astype(np.float32)
    kind = random.randrange(26)
    if kind < 8:
        return x
    with np.errstate(all="ignore"):
        forms = [
            lambda: x[0] if n else x,
            lambda: x.astype(
                random.choice([np.float16, np.float64, np.int8, np.uint8, np.int64, bool, object, np.complex64])
            ),
            lambda: x * np.float32(random.choice([0, 1e-40, 1e20, 1e38, np.inf, np.nan])),
            lambda: np.asfortranarray(x),
            lambda: x[::-1, ::-1],
            lambda: np.broadcast_to(x[:1], (n, d)) if n else x,
            lambda: x[None],
            lambda: np.ma.array(x, mask=x > 1),
            x.tolist,
            lambda: [x.tolist(), [1.0]],
            lambda: memoryview(x.copy()) if x.size else x,
            lambda: x.astype(">f4"),
            lambda: x.view(np.recarray) if x.size else x,
            lambda: np.array([f"{v:.2f}" for v in x.ravel()]).reshape(x.shape),
            lambda: random.choice([None, "x", 3, b"abc", {}, set(), iter([1.0]), Fails(), Stranger(), ...]),
            lambda: iter([x, x[:1]]),
            lambda: (random.choice([row, x, "x", None, iter(x), Fails()]) for row in x),
            lambda: objects(random.choice([[*x, None], list(x), [None], [*x, x]])),
            lambda: np.lib.stride_tricks.as_strided(x, (n, d), (0, 4)) if n and d else x,
        ]
        return random.choice(forms)()


def objects(rows):
    """A column of rows."""
    column = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        column[i] = row
    return column


def names_of_records(random, rng):
    """Ids of records, or something else."""
    some = [f"r{i}" for i in rng.integers(0, 20, random.choice([0, 1, 2, 5])).tolist()]
    return random.choice([some, list(dict.fromkeys(some)), list(dict.fromkeys(some)), "r1", [3], None, {"a": 1}, b"x"])


def texts(random, rng):
    """Documents, words, or something else."""
    return random.choice([["alpha beta"], ["x"] * 2, ["a", None], "alpha", '"; --', [3], None, [], "\ud800", Fails()])


def dictionaries(random, rng):
    """Metadata, or something else."""
    one = {"year": random.choice([3, 2.5, None, "x", True, [1, "a"], np.inf, 2**70, {"a": 1}]), "tag": "a"}
    return random.choice([[one], [one, None], [{}] * 5, [{"$x": 1}], [{3: 1}], one, None, [3], []])


def conditions(random, rng):
    """Conditions on metadata, or something else."""
    operators = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$exists", "$near"]
    operand = random.choice([3, 2.5, "x", True, None, [1, "a"], np.nan, 2**70, {"a": 1}, np.int64(3)])
    one = {random.choice(["year", "tag", "$x", "", 'a"b', "'"]): {random.choice(operators): operand}}
    return random.choice([one, one, {"$or": [one, {"year": 3}]}, {"$not": one}, {"$and": one}, {}, None, "x", [one]])


def records(random, rng):
    """Whole records, or something else."""
    vector = rng.standard_normal(random.choice([WIDTH, WIDTH, WIDTH, 3])).astype(np.float32)
    one = {"id": random.choice(["r1", "r2", 3, None]), "vector": vector, "document": "x", "year": 3}
    lists = [[one], [one, {"id": "r3"}], [], [3], [[one], one]]
    return random.choice([*lists, None, "no.csv", one, iter([one]), iter([[one], [], "x"]), iter([[one], iter([one])])])


RECORDS = {
    "ids": names_of_records,
    "documents": texts,
    "text": texts,
    "metadatas": dictionaries,
    "where": conditions,
    "records": records,
}


def id_lists(random, rng):
    """Ids, a filter, or something else."""
    n = random.choice([0, 1, 2, 5, 100, 300])
    forms = [
        lambda: rng.integers(-3, 400, n),
        lambda: np.arange(n),
        lambda: rng.integers(0, 2, n).astype(bool),
        lambda: rng.integers(0, 2, n).astype(np.uint8),
        lambda: range(random.choice([0, 5, -5, 2**70]), random.choice([0, 50, 2**70]), random.choice([1, -1, 3])),
        lambda: [2**63, -1],
        lambda: np.array([1.5]),
        lambda: np.array([], dtype=object),
        lambda: np.array(["a"]),
        lambda: np.ma.array(np.arange(n), mask=np.arange(n) % 2 == 0),
        lambda: selectors.Range(random.choice([0, 3, -2]), random.choice([5, 50, 10**20])),
        lambda: selectors.Ids(np.arange(3)) & ~selectors.Range(0, 2),
        lambda: selectors.Mask(np.ones(random.choice([0, 3, 100]), bool)) | selectors.Ids([1]),
        lambda: random.choice([None, "x", 3, {1, 2}, {}, Fails(), Stranger(), [[1]], -1, 2.5, np.nan, iter([1])]),
    ]
    try:
        return random.choice(forms)()
    except TqvecError:
        return None


class Fuzzer:
    """Objects that live on, and calls of what they and the modules offer."""

    def __init__(self, seed, folder, note):
        import random

        self.random, self.rng = random.Random(seed), np.random.default_rng(seed)
        self.folder, self.note = folder, note
        self.alive = {kind: [] for kind in ("codec", "index", "codes", "cache", "policy", "collection", "other")}
        self.calls, self.errors = Counter(), Counter()

    def value(self, name, kind=None):
        """A value for an argument of this name: in most calls of a fitting kind."""
        pick = self.random.random()
        if name == "rerank" and pick < 0.3:
            return self.random.choice([lambda ids: np.ones((len(ids), WIDTH), np.float32), lambda ids: 0, len, repr])
        if pick < 0.06:
            return self.random.choice(list(itertools.chain.from_iterable(self.alive.values())) or [None])
        if name in ("x", "queries", "sample", "vectors", "rerank", "q", "k_new", "v", "keys", "values", "base"):
            return arrays(self.random, self.rng)
        if kind == "collection" and name in RECORDS and pick < 0.9:
            return RECORDS[name](self.random, self.rng)
        if name == "k" and kind == "cache":
            return arrays(self.random, self.rng)
        if name in ("ids", "filter", "keep", "one"):
            return id_lists(self.random, self.rng)
        if name == "codes":
            return self.random.choice(self.alive["codes"] or [None])
        if name in ("policy", "policies"):
            return self.random.choice(self.alive["policy"] or [None]) if pick < 0.5 else words(self.random)
        if name == "other":
            return self.random.choice(self.alive["index"] or [None])
        if name in ("path", "file", "folder", "destination"):
            return self.random.choice([*self.paths(), None, 3, "", "\0", self.folder, self.folder / "none" / "x", b"x"])
        if name in (
            "metric",
            "codebook",
            "rotation",
            "mode",
            "scale",
            "qjl",
            "model",
            "windows",
            "memory",
            "context",
            "trace",
        ):
            return words(self.random) if pick < 0.8 else numbers(self.random)
        if name in ("upsert", "mmap", "verify", "return_error", "causal"):
            return self.random.choice([True, False, True, False, 1, None, "no"])
        if name == "threads":
            return self.random.choice([1, 2, None, None, 0, -1, "2", 10**9])
        if name == "d" and pick < 0.7:
            return self.random.choice([1, WIDTH, WIDTH, 64])
        return numbers(self.random)

    def paths(self):
        return [self.folder / f"{name}.tqv" for name in "abc"]

    def arguments(self, function, kind):
        """Arguments for all parameters without defaults, and some of the others."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return None
        args, named, by_name = [], {}, False
        for p in parameters:
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                continue
            if p.default is not p.empty and self.random.random() < 0.6:
                by_name = True
                continue
            value = self.value(p.name, kind)
            if p.kind is p.KEYWORD_ONLY or by_name:
                if p.kind is not p.POSITIONAL_ONLY:
                    named[p.name] = value
            else:
                args.append(value)
        return args, named

    def attempt(self, label, call, *args, **named):
        """Make a call; return its result, or None if it raised an error that is allowed."""
        self.note(label, args, named)
        self.calls[label] += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = call(*args, **named)
                if self.random.random() < 0.05:
                    repr(result), str(result)
                return result
        except TqvecError as error:
            self.errors[type(error).__name__] += 1
        except OSError as error:
            paths = [os.fsdecode(each) for each in (*args, *named.values()) if isinstance(each, (str, bytes, Path))]
            if error.filename is None and not any(path and path in str(error) for path in paths):
                raise
            self.errors["OSError"] += 1
        except MemoryError:
            self.errors["MemoryError"] += 1
        except Exception:
            if not label.endswith(
                ("__getitem__", "Result.index", "Result.count", "Result.__contains__")
            ):  # Python's own, or an array's
                raise
        return None

    def keep(self, kind, result):
        if result is not None:
            group = self.alive[kind]
            group.append(result)
            if len(group) > 6:
                group.pop(self.random.randrange(len(group)))

    def right(self, kind):
        """Right arguments."""
        pick = self.random.choice
        if kind == "codec":
            nbits, mode = pick([1, 2, 4, 8, 2.5, [(8, 2), (8, 4)]]), pick(["mse", "mse", "prod"])
            return {"d": WIDTH, "nbits": nbits, "codebook": pick(["scalar", "trellis"]), "mode": mode}
        if kind == "index":
            metric, codebook = pick(["ip", "cosine", "l2"]), pick(["scalar", "trellis"])
            return {"d": WIDTH, "nbits": pick([1, 2, 4, 2.5]), "metric": metric, "codebook": codebook}
        if kind == "cache":
            return {
                "n_layers": 2,
                "n_kv_heads": 1,
                "head_dim": WIDTH,
                "policy": pick(["turbo4", "exact", *self.alive["policy"]]),
            }
        if kind == "policy":
            kept = {"recent": pick([None, 0, 8]), "sinks": pick([0, 4]), "chunk": pick([1, 8]), "mean_tokens": 8}
            widths = {"key_nbits": pick([4, 2.5, (4, 3), kvcache.Bands([(8, 3), (8, 2)])]), "value_nbits": pick([2, 4])}
            recoded = {"recode_after": 8, "recoded_key_nbits": 1, "recoded_value_nbits": 1}
            return {**kept, **widths, **(recoded if pick([True, False]) else {}), "max_tokens": pick([None, 64])}
        if kind == "collection":
            settings = {"metric": pick(["ip", "cosine", "l2"]), "keep": pick([None, "float16", "int8"])}
            embed = pick([None, None, lambda texts: np.ones((len(texts), WIDTH)), lambda texts: texts])
            return {"path": self.folder / pick("uvw"), "d": WIDTH, "indexed": ["year"], "embed": embed, **settings}
        raise ValueError(kind)

    def make(self):
        """Make an object, of right or wrong arguments."""
        kind, factory = self.random.choice(
            [
                ("codec", tqvec.TurboQuant),
                ("index", tqvec.Index),
                ("cache", kvcache.KVCache),
                ("policy", kvcache.Policy),
                ("collection", tqvec.Collection),
            ]
        )
        right = self.right(kind)
        if self.random.random() < 0.5:
            drawn = self.arguments(factory, kind)
            self.keep(kind, self.attempt(factory.__name__, factory, *drawn[0], **drawn[1]))
        else:
            self.keep(kind, self.attempt(factory.__name__, factory, **right))

    def use(self):
        """Call a method of a living object, or set or copy something of it."""
        kind = self.random.choice([name for name, group in self.alive.items() if group] or ["none"])
        if kind == "none":
            return
        thing = self.random.choice(self.alive[kind])
        if thing is None or isinstance(thing, (tuple, list, dict, str, int, float, bytes, np.ndarray)):
            self.alive[kind] = [each for each in self.alive[kind] if each is not thing]
            return
        action = self.random.random()
        if action < 0.05:
            self.keep(kind, self.attempt("copy", self.random.choice([copy.copy, copy.deepcopy]), thing))
        elif action < 0.08:
            self.keep(kind, self.attempt("pickle", lambda: pickle.loads(pickle.dumps(thing))))
        elif action < 0.13:
            self.bend(thing)
        else:
            self.call_method(kind, thing)

    def bend(self, thing):
        """Try to change an attribute: that may be refused, and must change nothing inside."""
        names = [name for name in dir(thing) if not name.startswith("_")]
        name = self.random.choice(names)
        self.note(f"{type(thing).__name__}.{name} = ", (), {})
        try:
            value = getattr(thing, name)
            if isinstance(value, np.ndarray) and value.size and self.random.random() < 0.5:
                value.flat[0] = 3
            elif not callable(value):
                setattr(thing, name, numbers(self.random))
        except (AttributeError, TypeError, ValueError):  # Python's own for what can't be set
            pass

    def call_method(self, kind, thing):
        names = [
            name
            for name in dir(type(thing))
            if not name.startswith("_") or name in ("__len__", "__contains__", "__getitem__", "_repr_html_")
        ]
        name = self.random.choice(names)
        if name in HOOKS | AWAITED or (name in SLOW and self.random.random() < 0.9):
            return
        label = f"{type(thing).__name__}.{name}"
        try:
            method = getattr(thing, name)
        except TqvecError:
            return
        except AttributeError:
            if isinstance(thing, tqvec.Codes):  # made by hand, and never checked
                return
            raise
        if not callable(method):
            return
        drawn = self.arguments(method, kind)
        if drawn is None:
            return
        result = self.attempt(label, method, *drawn[0], **drawn[1])
        if isinstance(result, tqvec.Codes):
            self.keep("codes", result)
        elif isinstance(result, tqvec.Index):
            self.keep("index", result)
        elif isinstance(result, kvcache.KVCache):
            self.keep("cache", result)
        elif inspect.isgenerator(result):
            self.attempt(f"next of {label}", next, result, None)
        elif type(result).__module__.startswith("tqvec"):
            self.keep("other", result)

    def call_function(self):
        """Call a function of a module."""
        modules = [kvcache, planning, quality, simulation, selectors]
        module = self.random.choice(modules)
        name = self.random.choice(module.__all__)
        function = getattr(module, name)
        if name in SLOW and self.random.random() < 0.95:
            return
        if not inspect.isfunction(function) and function not in INPUTS:  # records of results are made by tqvec alone
            return
        if "measure" in name or "time" in name:  # they run for seconds, on purpose
            return
        drawn = self.arguments(function, "function")
        if drawn is not None:
            self.keep("other", self.attempt(f"{module.__name__}.{name}", function, *drawn[0], **drawn[1]))

    def hand_made(self):
        """Codes by hand, of wrong shapes and contents."""
        n = self.random.choice([0, 1, 5])
        data = self.rng.integers(0, 256, (n, self.random.choice([1, 2, 4, 8, 10, 16, 64])), np.uint8)
        scale = self.rng.standard_normal(self.random.choice([n, n, n, n + 1, 0])).astype(
            self.random.choice(["f4", "f4", "f8"])
        )
        gamma = self.random.choice([None, None, scale, data, "x"])
        if self.random.random() < 0.2:
            scale = scale * self.random.choice([np.nan, np.inf, 1e38])
        self.keep("codes", self.attempt("Codes", tqvec.Codes, data, scale, gamma))

    def select(self):
        """Compose selectors, or something else, with the operators."""
        one, other = (id_lists(self.random, self.rng) for _ in range(2))
        operate = self.random.choice([lambda: selectors.Ids([1]) & other, lambda: selectors.Range(0, 9) | other])
        self.attempt("operators", operate)
        if isinstance(one, selectors.Selector):
            self.attempt("~", lambda: ~one)

    def verify(self):
        """Verify a port that is none, or that gives nonsense."""
        nonsense = self.random.choice([lambda *given: None, lambda *given: given[-1], numbers, Fails])
        port = self.random.choice([types.SimpleNamespace(encode=nonsense, dequantize=nonsense), numbers(self.random)])
        if isinstance(port, str):  # a command, which would be run
            return
        names = self.random.choice(
            [["tqvec_scalar@2"], ["tqvec_scalar@2"], (), words(self.random), numbers(self.random)]
        )
        sizes = self.random.choice([[8], [8], [8], numbers(self.random)])
        self.attempt("verify", tqvec.oracle.verify, port, profiles=names, dims=sizes, quick=True)

    def step(self):
        chance = self.random.random()
        if chance < 0.001:
            self.verify()
        elif chance < 0.02:
            self.select()
        elif chance < 0.12:
            self.make()
        elif chance < 0.16:
            self.hand_made()
        elif chance < 0.3:
            self.call_function()
        else:
            self.use()


def run_child(seed, seconds, folder, log):
    """Make calls for some seconds; write each into the log before it is made."""
    with open(log, "w", encoding="utf-8", errors="replace") as lines:

        def note(label, args, named):
            lines.seek(0)
            lines.truncate()
            buffer = io.StringIO()
            shown = [describe(each) for each in args] + [f"{key}={describe(each)}" for key, each in named.items()]
            buffer.write(f"{label}({', '.join(shown)})\n")
            lines.write(buffer.getvalue())
            lines.flush()

        os.chdir(folder)  # some paths are relative
        fuzzer = Fuzzer(seed, folder, note)
        end, found = time.monotonic() + seconds, {}
        while time.monotonic() < end:
            try:
                fuzzer.step()
            except Exception as error:  # noqa: PERF203
                text = "".join(traceback.format_exception(error)[-4:])
                key = (type(error).__name__, traceback.extract_tb(error.__traceback__)[-1].lineno, str(error)[:40])
                if key not in found:
                    lines.seek(0)
                    found[key] = f"{Path(log).read_text(encoding='utf-8', errors='replace')}{text}"
                    print(f"FOUND {found[key]}", flush=True)
    print(f"{sum(fuzzer.calls.values())} calls of {len(fuzzer.calls)} names, errors {dict(fuzzer.errors)}", flush=True)
    return len(found)


def describe(value):
    """A short text of an argument."""
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__}{value.shape}{value.dtype}"
    try:
        return repr(value)[:60]
    except Exception as error:
        return f"<{type(value).__name__}: repr fails: {error}>"


def main():
    """Run children until the time is over; print what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, metavar=("SECONDS", "FOLDER", "LOG"))
    options = parser.parse_args()
    if options.child:
        seconds, folder, log = options.child
        sys.exit(min(run_child(options.seed, float(seconds), Path(folder), log), 100))
    end, seed, bad = time.monotonic() + options.minutes * 60, options.seed, 0
    while (left := end - time.monotonic()) > 1:
        with tempfile.TemporaryDirectory() as folder:
            log = os.path.join(folder, "last call")
            os.mkdir(os.path.join(folder, "files"))
            command = [sys.executable, "-X", "faulthandler", __file__, "--seed", str(seed)]
            command += ["--child", str(min(left, 60.0)), os.path.join(folder, "files"), log]
            run = subprocess.run(command, check=False)
            if run.returncode:
                bad += 1
            if run.returncode < 0 or run.returncode > 100:
                print(
                    f"seed {seed}: the interpreter ended with {run.returncode} in {Path(log).read_text()}", flush=True
                )
        seed += 1
    print(f"{bad} of {seed - options.seed} processes found something")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
