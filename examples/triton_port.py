"""tqvec_scalar in Triton: encode, decode, scores and attention on codes.

``tqvec verify examples/triton_port.py`` judges it where tqvec is installed. On a bare GPU machine

    python examples/triton_port.py --json report.json

does so too, with PyTorch, Triton and NumPy alone, and then prints the card and throughputs. ``TRITON_INTERPRET=1``
judges it on a CPU, slowly.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import torch
import triton
import triton.language as tl

PROFILES = ["tqvec_scalar"]
DIMS = (64, 80, 96, 100, 128, 256, 384, 1536)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
ROWS, COORDINATES, QUERIES = 64, 32, 16  # of a tile


def asarray(array):
    return torch.from_numpy(array).to(DEVICE)


# ---- kernels: one row a program, but for scores and attention ----


@triton.jit
def normalize_kernel(x, unit, d, BLOCK: tl.constexpr):
    row, j = tl.program_id(0), tl.arange(0, BLOCK)
    v = tl.load(x + row * d + j, mask=j < d, other=0).to(tl.float64)
    norm = tl.sqrt(tl.sum(v * v, axis=0))
    tl.store(unit + row * d + j, tl.where(norm > 0, v / norm, 0).to(tl.float32), mask=j < d)


@triton.jit
def transform(w, SIZE: tl.constexpr, STEPS: tl.constexpr):
    """Walsh-Hadamard transform of SIZE = 2^STEPS values, unnormalised."""
    for step in tl.static_range(STEPS):
        pairs = tl.permute(tl.reshape(w, [SIZE >> (step + 1), 2, 1 << step]), [0, 2, 1])
        a, b = tl.split(pairs)
        w = tl.reshape(tl.permute(tl.join(a + b, a - b), [0, 2, 1]), [SIZE])
    return w


@triton.jit
def round_kernel(v, w, permutation, factors, d, start, SIZE: tl.constexpr, STEPS: tl.constexpr):
    """One block of one round: w = H (m · v[π])."""
    row, j = tl.program_id(0), start + tl.arange(0, SIZE)
    signed = tl.load(v + row * d + tl.load(permutation + j)) * tl.load(factors + j)
    tl.store(w + row * d + j, transform(signed, SIZE, STEPS))


@triton.jit
def unround_kernel(w, v, permutation, factors, d, start, SIZE: tl.constexpr, STEPS: tl.constexpr):
    """Inverse of `round_kernel`: v[π] = m · (H w)."""
    row, j = tl.program_id(0), start + tl.arange(0, SIZE)
    signed = transform(tl.load(w + row * d + j), SIZE, STEPS) * tl.load(factors + j)
    tl.store(v + row * d + tl.load(permutation + j), signed)


@triton.jit
def code_of(y, thresholds, NBITS: tl.constexpr):
    code = tl.zeros_like(y).to(tl.int32)
    for t in tl.static_range((1 << NBITS) - 1):
        code += (y > tl.load(thresholds + t)).to(tl.int32)
    return code


@triton.jit
def quantize_kernel(rotated, codes, thresholds, d, NBITS: tl.constexpr, BLOCK: tl.constexpr):
    row, j = tl.program_id(0), tl.arange(0, BLOCK)
    y = tl.load(rotated + row * d + j, mask=j < d, other=0)
    tl.store(codes + row * d + j, code_of(y, thresholds, NBITS).to(tl.uint8), mask=j < d)


@triton.jit
def dequantize_kernel(codes, levels, centroids, d, BLOCK: tl.constexpr):
    row, j = tl.program_id(0), tl.arange(0, BLOCK)
    code = tl.load(codes + row * d + j, mask=j < d, other=0).to(tl.int32)
    tl.store(levels + row * d + j, tl.load(centroids + code), mask=j < d)


@triton.jit
def scale_kernel(x, rotated, codes, centroids, scale, d, BLOCK: tl.constexpr):
    row, j = tl.program_id(0), tl.arange(0, BLOCK)
    v = tl.load(x + row * d + j, mask=j < d, other=0).to(tl.float64)
    y = tl.load(rotated + row * d + j, mask=j < d, other=0).to(tl.float64)
    code = tl.load(codes + row * d + j, mask=j < d, other=0).to(tl.int32)
    norm, dot = tl.sqrt(tl.sum(v * v, axis=0)), tl.sum(y * tl.load(centroids + code).to(tl.float64), axis=0)
    tl.store(scale + row, tl.where(norm > 0, norm / tl.where(norm > 0, dot, 1.0), 0.0).to(tl.float32))


@triton.jit
def pack_kernel(codes, packed, d, size, NBITS: tl.constexpr, BLOCK: tl.constexpr):
    """Bit 8 B + k of a row is bit NBITS − 1 − (8 B + k) // d of code (8 B + k) mod d."""
    row, byte, k = tl.program_id(0), tl.arange(0, BLOCK), tl.arange(0, 8)
    bit = byte[:, None] * 8 + k[None, :]
    code = tl.load(codes + row * d + bit % d, mask=bit < d * NBITS, other=0).to(tl.int32)
    value = tl.where(bit < d * NBITS, code >> tl.maximum(NBITS - 1 - bit // d, 0) & 1, 0)
    tl.store(packed + row * size + byte, tl.sum(value << k[None, :], axis=1).to(tl.uint8), mask=byte < size)


@triton.jit
def codes_at(packed, at, j, d, mask, NBITS: tl.constexpr):
    """Codes of coordinates `j` of the rows that begin at `at`, broadcast against each other."""
    code = tl.zeros_like(at + j).to(tl.int32)
    for plane in tl.static_range(NBITS):
        bit = plane * d + j
        byte = tl.load(packed + at + bit // 8, mask=mask, other=0).to(tl.int32)
        code = code * 2 + (byte >> bit % 8 & 1)
    return code


@triton.jit
def unpack_kernel(packed, codes, d, size, NBITS: tl.constexpr, BLOCK: tl.constexpr):
    row, j = tl.program_id(0), tl.arange(0, BLOCK)
    code = codes_at(packed, row * size + tl.zeros_like(j), j, d, j < d, NBITS)
    tl.store(codes + row * d + j, code.to(tl.uint8), mask=j < d)


@triton.jit
def score_kernel(
    queries, packed, scale, centroids, scores, nq, n, d, size,
    NBITS: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, COORDINATES: tl.constexpr,
):  # fmt: skip
    """A tile of scores of rotated queries: levels are looked up as they are needed, nothing is decoded in memory."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    q = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    total = tl.zeros([QUERIES, ROWS], tl.float32)
    for start in range(0, d, COORDINATES):
        j = start + tl.arange(0, COORDINATES)
        mask = (j < d)[:, None] & (i < n)[None, :]
        code = codes_at(packed, i[None, :] * size, j[:, None].to(tl.int64), d, mask, NBITS)
        level = tl.where(mask, tl.load(centroids + code), 0.0)
        given = tl.load(queries + q[:, None] * d + j[None, :], mask=(q < nq)[:, None] & (j < d)[None, :], other=0)
        total += tl.dot(given, level, input_precision="ieee")
    total *= tl.load(scale + i, mask=i < n, other=0)[None, :]
    tl.store(scores + q[:, None].to(tl.int64) * n + i[None, :], total, mask=(q < nq)[:, None] & (i < n)[None, :])


@triton.jit
def attend_kernel(
    scores, packed, scale, centroids, output, nq, n, d, size, divisor,
    NBITS: tl.constexpr, QUERIES: tl.constexpr, ROWS: tl.constexpr, COORDINATES: tl.constexpr,
):  # fmt: skip
    """softmax(scores / divisor) times the levels of values, for some coordinates: a running maximum, one pass."""
    q = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    j = tl.program_id(1) * COORDINATES + tl.arange(0, COORDINATES)
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    weight = tl.zeros([QUERIES], tl.float32)
    total = tl.zeros([QUERIES, COORDINATES], tl.float32)
    for start in range(0, n, ROWS):
        i = start + tl.arange(0, ROWS).to(tl.int64)
        inside = (q < nq)[:, None] & (i < n)[None, :]
        s = tl.load(scores + q[:, None].to(tl.int64) * n + i[None, :], mask=inside, other=float("-inf")) / divisor
        s = tl.where((q < nq)[:, None], s, tl.where((i < n)[None, :], 0.0, float("-inf")))
        new = tl.maximum(largest, tl.max(s, axis=1))
        p, keep = tl.exp(s - new[:, None]), tl.exp(largest - new)
        mask = (i < n)[:, None] & (j < d)[None, :]
        code = codes_at(packed, i[:, None] * size, j[None, :].to(tl.int64), d, mask, NBITS)
        factor = tl.load(scale + i, mask=i < n, other=0)
        level = tl.where(mask, tl.load(centroids + code) * factor[:, None], 0.0)
        total = total * keep[:, None] + tl.dot(p, level, input_precision="ieee")
        weight = weight * keep + tl.sum(p, axis=1)
        largest = new
    total = total / weight[:, None]
    tl.store(output + q[:, None] * d + j[None, :], total, mask=(q < nq)[:, None] & (j < d)[None, :])


# ---- stages ----


def block(view):
    return triton.next_power_of_2(view.d)


def code_bytes(view):
    return (view.d * view.nbits + 7) // 8


def normalize(view, x):
    unit = torch.empty_like(x)
    normalize_kernel[(len(x),)](x, unit, view.d, BLOCK=block(view))
    return unit


def rounds(view):
    """Permutation and factors of each round, and (start, size) of the blocks."""
    if "rounds" not in view.tables:
        blocks = view.tables["blocks"]
        factors = (view.tables["signs"].double() / blocks.double().sqrt().repeat_interleave(blocks)).float()
        sizes = blocks.tolist()
        starts = [sum(sizes[:b]) for b in range(len(sizes))]
        pairs = list(zip(view.tables["permutation"], factors, strict=True))
        view.tables["rounds"] = pairs, list(zip(starts, sizes, strict=True))
    return view.tables["rounds"]


def rotate(view, unit):
    pairs, blocks = rounds(view)
    v, w = unit.clone(), torch.empty_like(unit)
    for permutation, factors in pairs:
        for start, size in blocks:
            round_kernel[(len(v),)](v, w, permutation, factors, view.d, start, SIZE=size, STEPS=size.bit_length() - 1)
        v, w = w, v
    return v


def unrotate(view, levels):
    pairs, blocks = rounds(view)
    w, v = levels.clone(), torch.empty_like(levels)
    for permutation, factors in reversed(pairs):
        for start, size in blocks:
            unround_kernel[(len(w),)](w, v, permutation, factors, view.d, start, SIZE=size, STEPS=size.bit_length() - 1)
        v, w = w, v
    return w


def quantize(view, rotated):
    codes = torch.empty(rotated.shape, dtype=torch.uint8, device=rotated.device)
    grid = (len(codes),)
    quantize_kernel[grid](rotated, codes, view.tables["thresholds"], view.d, NBITS=view.nbits, BLOCK=block(view))
    return codes


def dequantize(view, codes):
    levels = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    dequantize_kernel[(len(codes),)](codes, levels, view.tables["centroids"], view.d, BLOCK=block(view))
    return levels


def scale(view, x, rotated, codes):
    scales = torch.empty(len(x), dtype=torch.float32, device=x.device)
    scale_kernel[(len(x),)](x, rotated, codes, view.tables["centroids"], scales, view.d, BLOCK=block(view))
    return scales


def pack(view, codes):
    size = code_bytes(view)
    packed = torch.empty((len(codes), size), dtype=torch.uint8, device=codes.device)
    width = triton.next_power_of_2(size)
    pack_kernel[(len(codes),)](codes, packed, view.d, size, NBITS=view.nbits, BLOCK=width)
    return packed


def unpack(view, packed):
    codes = torch.empty((len(packed), view.d), dtype=torch.uint8, device=packed.device)
    unpack_kernel[(len(packed),)](packed, codes, view.d, code_bytes(view), NBITS=view.nbits, BLOCK=block(view))
    return codes


def encode(view, x):
    rotated = rotate(view, normalize(view, x))
    codes = quantize(view, rotated)
    return pack(view, codes), scale(view, x, rotated, codes)


def decode(view, packed, scale):
    return unrotate(view, dequantize(view, unpack(view, packed))) * (view.tables["shrink"] * scale)[:, None]


def score_rotated(view, rotated, packed, scale):
    nq, n = len(rotated), len(packed)
    scores = torch.empty((nq, n), dtype=torch.float32, device=packed.device)
    grid = (triton.cdiv(n, ROWS), triton.cdiv(nq, QUERIES))
    score_kernel[grid](
        rotated, packed, scale, view.tables["centroids"], scores, nq, n, view.d, code_bytes(view),
        NBITS=view.nbits, QUERIES=QUERIES, ROWS=ROWS, COORDINATES=COORDINATES,
    )  # fmt: skip
    return scores


def score(view, queries, packed, scale):
    return score_rotated(view, rotate(view, queries), packed, scale)


def attention(view, queries, packed, scale, packed_v, scale_v):
    """Weights times levels, and one rotation back of the sum: values are never decoded."""
    scores = score(view, queries, packed, scale)
    output = torch.empty_like(queries)
    grid = (triton.cdiv(len(queries), QUERIES), triton.cdiv(view.d, COORDINATES))
    attend_kernel[grid](
        scores, packed_v, scale_v, view.tables["centroids"], output, len(queries), len(packed_v), view.d,
        code_bytes(view), math.sqrt(view.d), NBITS=view.nbits, QUERIES=QUERIES, ROWS=ROWS, COORDINATES=COORDINATES,
    )  # fmt: skip
    return unrotate(view, output) * view.tables["shrink"]


# ---- verdict and throughput on a bare machine ----


def import_oracle():
    """Import tqvec.oracle, which needs NumPy alone. Without Numba tqvec can't be imported, so a bare one is made."""
    root = Path(__file__).resolve().parents[1]
    if importlib.util.find_spec("numba") is None:
        spec = importlib.util.spec_from_file_location("tqvec", root / "tqvec" / "__init__.py")
        spec.submodule_search_locations = [str(root / "tqvec")]
        sys.modules["tqvec"] = importlib.util.module_from_spec(spec)
    elif importlib.util.find_spec("tqvec") is None:
        sys.path.insert(0, str(root))
    return importlib.import_module("tqvec.oracle")


def seconds(function, times=20):
    """Return the median time of a call on the GPU, after three to warm up."""
    durations = []
    for k in range(times + 3):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        function()
        last.record()
        torch.cuda.synchronize()
        if k >= 3:
            durations.append(first.elapsed_time(last) / 1e3)
    return sorted(durations)[len(durations) // 2]


def measure_throughput(d, nbits, n=1 << 20, nq=64):
    """Measure vectors encoded, and pairs of query and vector scored, per second."""
    ports, registry = (importlib.import_module(f"tqvec.oracle.{name}") for name in ("ports", "families.registry"))
    view = ports.view_of(registry.instantiate(ports.PROFILES[f"tqvec_scalar@{nbits}"], d), asarray)
    n = min(n, (1 << 27) // d)
    x, queries = torch.randn((n, d), device=DEVICE), torch.randn((nq, d), device=DEVICE)
    packed, scales = encode(view, x)
    rotated = rotate(view, queries)
    encoding = seconds(lambda: encode(view, x))
    scoring = seconds(lambda: score_rotated(view, rotated, packed, scales))
    few = (packed[: 1 << 16], scales[: 1 << 16])
    attending = seconds(lambda: attention(view, queries, *few, *few))
    return {
        "d": d,
        "nbits": nbits,
        "vectors": n,
        "queries": nq,
        "encoded a second": n / encoding,
        "scores a second": n * nq / scoring,
        "code bytes read a second": n * code_bytes(view) * triton.cdiv(nq, QUERIES) / scoring,
        "attention, 64 queries on 65536 keys, ms": 1e3 * attending,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the report and the figures")
    parser.add_argument("--dims", type=int, nargs="*", default=DIMS)
    parser.add_argument("--profiles", nargs="*", default=PROFILES)
    options = parser.parse_args()
    oracle = import_oracle()
    report = oracle.verify(__file__, profiles=options.profiles, dims=options.dims, quick=DEVICE == "cpu")
    print(report)
    for result in report.results:
        same = all(verdict.identical for verdict in result.verdicts if verdict.stage in ("rotate", "quantize", "pack"))
        print(f"{result.profile} d={result.d}: bits of the oracle: {same}")
    figures = {
        "report": json.loads(report.to_json()),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    if DEVICE == "cuda":
        figures["card"] = torch.cuda.get_device_name()
        print(f"\n{figures['card']}, PyTorch {torch.__version__}, Triton {triton.__version__}")
        figures["throughput"] = [measure_throughput(d, nbits) for d in (128, 1536) for nbits in (2, 4)]
        for row in figures["throughput"]:
            print("; ".join(f"{name}: {value:,.4g}" for name, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
