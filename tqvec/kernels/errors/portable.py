"""Error bars of results: the distribution of their true scores, and how many hold the true best (README.md)."""

from __future__ import annotations

import math

import numpy as np

from tqvec.kernels._jit import jit

LEAST_TOTAL = 1e-150  # of distances between scores: where all are equal, the rate of their tail is very large
FAR = -30.0  # standard deviations, below which ln Φ is that of an asymptotic series
CERTAIN = 8.3  # standard deviations, beyond which Φ is 0 or 1
HALVINGS = 24  # of the interval that holds the k-th best true score
SMALL = 1e-30  # in place of no density at all
LARGEST_EXPONENT = 700.0


@jit
def _tail_sums(scores, sums):
    """``sums[j]`` becomes the sum of the distances of the best j + 1 scores from the first one."""
    total = 0.0
    for j in range(scores.size):
        total += abs(np.float64(scores[j]) - np.float64(scores[0]))
        sums[j] = total


@jit
def _tail_rate(scores, sums, window):
    """Hill's rate of the exponential tail that the best `window` scores are from: (m − 1) / Σ |s_i − s_m|."""
    below = abs(np.float64(scores[window - 1]) - np.float64(scores[0]))
    return (window - 1) / max(window * below - sums[window - 1], LEAST_TOTAL)


@jit
def _tangent(scale_bits, model):
    """The tangent that the low byte of a scale holds, or the expected one where it is unknown."""
    code = scale_bits & np.uint32(255)
    if code == 0 or scale_bits & np.uint32(0x7FFFFFFF) < np.uint32(0x00800000):
        return model.tangent
    return model.tangents[code]


@jit
def true_scores_portable(scores, scale, squares, queries, model, out, rates):
    """Fill in the distribution of the true scores of results; the "Error bars" page has the derivation.

    Parameters
    ----------
    scores : (nq, m) float32
        Finite, best first, as `Index.search` returns them.
    scale : (nq, m) float32
    squares : (nq, m) or (0, 0) float32
        Squared lengths of the rows, for l2 alone.
    queries : (3, nq) float64
        Length of each query, √κ of it for tan θ = 1, and the part of its scores that is due to a centre.
    model : ErrorModel
    out : (3, nq, m) float64
        Mean and standard deviation of true scores, larger is better; root mean square error of scores.
    rates : (nq,) float64
        Of the exponential tail that the best `m` scores are from.
    """
    nq, m = scores.shape
    mean, std, error = out
    sums = np.empty(m)
    most = min(m, max(6, model.ntotal // 2))
    limit = math.sqrt(2 * math.log(max(1, model.ntotal)))
    bits = scale.view(np.uint32)
    for q in range(nq):
        _tail_sums(scores[q], sums)
        rates[q] = _tail_rate(scores[q], sums, m)
        length, unit_error, centre = queries[0, q], queries[1, q], queries[2, q]
        for j in range(m):
            score = np.float64(scores[q, j])
            tangent = _tangent(bits[q, j], model)
            if squares.size > 0:
                square = np.float64(squares[q, j])
                size = 2 * length * math.sqrt(square)
                product = length * length + square - score
            else:
                size = abs(np.float64(scale[q, j])) * (model.growth / (1 + tangent * tangent))
                if model.unit_rows:
                    size = 1.0 if size > 0 else 0.0
                size *= length
                product = score - centre
            cosine = min(max(product / size, -1.0), 1.0) if size > 0 else 0.0
            relative = unit_error * tangent
            window = min(model.window + 2 * j, most)
            better = (j + 0.5) / max(1, model.ntotal)
            rate = _tail_rate(scores[q], sums, window) * max(1 - 2 * better, 0.0) / (1 - better)
            total = own = bias = 0.0
            for _ in range(2):  # the second time with cosines without selection bias
                true = cosine - (total / size if size > 0 else 0.0)
                unexplained = min(abs(1 - true * true) + 4 * relative * relative, 1.0)
                unit = size * math.sqrt(relative * relative * unexplained + model.rounding * model.rounding)
                own = model.near_std * unit
                bias = own * min(own * rate, limit)
                total = model.near_mean * unit + bias
            mean[q, j] = score * model.sign - total
            std[q, j] = own
            error[q, j] = math.sqrt(own * own + total * total + bias * bias / window)  # the last: of the rate


@jit
def _normal(x):
    """Φ, the distribution function of the normal distribution, to 10⁻¹⁶."""
    if abs(x) > CERTAIN:
        return 1.0 if x > 0 else 0.0
    return 0.5 * math.erfc(-x * math.sqrt(0.5))


@jit
def _log_normal(x):
    """ln Φ."""
    if x > FAR:
        return math.log(0.5 * math.erfc(-x * math.sqrt(0.5)))
    y = 1 / (x * x)
    series = 1 - y * (1 - 3 * y * (1 - 5 * y * (1 - 7 * y)))
    return -x * x / 2 - math.log(-x) - 0.5 * math.log(2 * math.pi) + math.log(series)


@jit
def _kth_best(mean, std, k):
    """Mean and standard deviation of the k-th best true score."""
    low, high = np.min(mean - 8 * std), np.max(mean + 8 * std)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = 0.0
        for j in range(mean.size):
            above += _normal((mean[j] - middle) / std[j])
        if above > k - 0.5:
            low = middle
        else:
            high = middle
    density = 0.0
    variance = 0.0
    for j in range(mean.size):
        steps = (mean[j] - low) / std[j]
        share = _normal(steps)
        variance += share * (1 - share)
        density += math.exp(-steps * steps / 2) / (math.sqrt(2 * math.pi) * std[j])
    return low, math.sqrt(variance) / max(density, SMALL)


@jit
def _better_unseen(mean, std, rate, rest, threshold):
    """Expected number of rows below the last result whose true score is above the threshold.

    ∫ mλ e^{λy} Q(a + y/σ) dy over y > 0 is m (e^{λ²σ²/2 − λσa} Q(a − λσ) − Q(a)), with a the threshold's distance from
    the last mean in units of σ.
    """
    m = mean.size
    away = (threshold - mean[m - 1]) / std[m - 1]
    steep = rate * std[m - 1]
    exponent = steep * steep / 2 - steep * away + _log_normal(steep - away)
    unseen = m * (math.exp(min(exponent, LARGEST_EXPONENT)) - _normal(-away))
    return min(max(unseen, 0.0), np.float64(rest))


@jit
def list_lengths_portable(mean, std, rate, rest, wanted, nodes, lengths):
    """Fill in the least number of results that hold all of the true best k with a probability.

    Parameters
    ----------
    mean, std : (nq, m) float64
        Of the true scores.
    rate : (nq,) float64
        Of the exponential tail that the scores are from.
    rest : int
        Number of rows that haven't been fetched.
    wanted : (int, float)
        k, at most `m`, and the probability.
    nodes : (2, count) float64
        Nodes and weights of an integral over the normal distribution.
    lengths : (nq,) int64
        At least `k`; m + 1 where `m` results are too few.
    """
    k, confidence = wanted
    nq, m = mean.shape
    complete = np.empty(m + 1)  # probability that the first 0, 1, … m results hold all of the true best
    for q in range(nq):
        centre, deviation = _kth_best(mean[q], std[q], k)
        complete[:] = 0.0
        for node in range(nodes.shape[1]):
            threshold = centre + nodes[0, node] * deviation
            product = nodes[1, node] * math.exp(-_better_unseen(mean[q], std[q], rate[q], rest, threshold))
            complete[m] += product
            for j in range(m - 1, k - 1, -1):
                product *= _normal((threshold - mean[q, j]) / std[q, j])
                complete[j] += product
        lengths[q] = m + 1
        for j in range(m, k - 1, -1):
            if complete[j] >= confidence:
                lengths[q] = j
