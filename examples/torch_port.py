"""tqvec_scalar in plain PyTorch, from docs/format.md: `tqvec verify examples/torch_port.py`.

Every function is named after a stage and takes the view of the profile first. Tensors may be on any device.
"""

import math

import torch

PROFILES = ["tqvec_scalar"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def asarray(array):
    """Every array that the runner hands over comes through here."""
    return torch.from_numpy(array).to(DEVICE)


def normalize(view, x):
    norm = x.double().square().sum(dim=1, keepdim=True).sqrt()
    return torch.where(norm > 0, x.double() / norm, 0).float()


def transform(w, sizes):
    """Walsh-Hadamard transform of each block, unnormalised."""
    parts = []
    for part in w.split(sizes, dim=1):
        block, h = part, 1
        while h < part.shape[1]:
            a, b = block.reshape(len(w), -1, 2, h).unbind(dim=2)
            block = torch.stack([a + b, a - b], dim=2).reshape(len(w), -1)
            h *= 2
        parts.append(block)
    return torch.cat(parts, dim=1)


def factors(view):
    blocks = view.tables["blocks"].double()
    return (view.tables["signs"].double() / blocks.repeat_interleave(blocks.long()).sqrt()).float()


def rotate(view, unit):
    w, sizes = unit.float(), view.tables["blocks"].tolist()
    for permutation, m in zip(view.tables["permutation"].long(), factors(view), strict=True):
        w = transform(w[:, permutation] * m, sizes)
    return w


def unrotate(view, levels):
    w, sizes = levels, view.tables["blocks"].tolist()
    for permutation, m in zip(view.tables["permutation"].long().flip(0), factors(view).flip(0), strict=True):
        v = torch.empty_like(w)
        v[:, permutation] = transform(w, sizes) * m
        w = v
    return w


def quantize(view, rotated):
    return torch.bucketize(rotated, view.tables["thresholds"]).to(torch.uint8)  # a value on a threshold goes down


def dequantize(view, codes):
    return view.tables["centroids"][codes.long()]


def scale(view, x, rotated, codes):
    norm = x.double().square().sum(dim=1).sqrt()
    dot = (rotated.double() * dequantize(view, codes).double()).sum(dim=1)
    return torch.where(norm > 0, norm / dot, 0).float()


def pack(view, codes):
    planes = torch.stack([codes >> b & 1 for b in reversed(range(view.nbits))], dim=1).reshape(len(codes), -1)
    bits = torch.nn.functional.pad(planes, (0, -planes.shape[1] % 8)).reshape(len(codes), -1, 8).int()
    return (bits << torch.arange(8, device=bits.device)).sum(dim=2).to(torch.uint8)


def unpack(view, packed):
    bits = (packed[:, :, None] >> torch.arange(8, device=packed.device, dtype=torch.uint8) & 1).flatten(1)
    planes = bits[:, : view.d * view.nbits].reshape(len(packed), view.nbits, view.d).int()
    weights = 1 << torch.arange(view.nbits - 1, -1, -1, device=packed.device)
    return (planes * weights[:, None]).sum(dim=1).to(torch.uint8)


def encode(view, x):
    rotated = rotate(view, normalize(view, x))
    codes = quantize(view, rotated)
    return pack(view, codes), scale(view, x, rotated, codes)


def decode(view, packed, scale):
    vectors = unrotate(view, dequantize(view, unpack(view, packed)))
    return vectors * (view.tables["shrink"] * scale)[:, None]


def score(view, queries, packed, scale):
    return rotate(view, queries) @ dequantize(view, unpack(view, packed)).T * scale


def attention(view, queries, packed, scale, packed_v, scale_v):
    weights = torch.softmax(score(view, queries, packed, scale) / math.sqrt(view.d), dim=1)
    return weights @ decode(view, packed_v, scale_v)
