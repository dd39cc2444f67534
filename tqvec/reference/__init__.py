"""The oracle: TurboQuant's mathematics in plain NumPy, one function per formula, slow and obvious.

Written from the "File format" page and the paper (arXiv 2504.19874), apart from the code it judges: it imports nothing
from ``codec`` or ``kernels``, and only tests and the conformance runner import it.

- ``splitmix``: random 64-bit words, in Python integers.
- ``rotation``: Haar by QR, and the randomised Hadamard rotation, forwards, backwards and as a matrix.
- ``codebook``: density, Lloyd-Max, distortion, entropy; the frozen numbers.
- ``trellis``: levels of trellis codes, Viterbi's algorithm, exhaustive search.
- ``packing``: bit planes.
- ``quantize``: Algorithm 1, lane sums, the three scale rules.
- ``calibrated``: the rotations of calibrated codes, by a matrix of floats or of bytes.
- ``prod``: Algorithm 2.
- ``scoring``: dense scores, their error bar, exact top-k.
"""
