"""In what two indexes differ that can't be merged, in words."""

from __future__ import annotations

from tqvec.codec.turboquant import TurboQuant


def describe_difference(one: tuple[TurboQuant, str], other: tuple[TurboQuant, str]) -> str | None:
    """Return in what two codecs with their metrics differ, as "4 bits against 2"; None if their codes can be mixed."""
    (codec, metric), (its_codec, its_metric) = one, other
    if (codec.fingerprint, metric) == (its_codec.fingerprint, its_metric):
        return None
    pairs = zip(_facts(codec, metric), _facts(its_codec, its_metric), strict=True)
    differences = [f"{words.format(value)} against {its}" for (words, value), (_, its) in pairs if value != its]
    return ", ".join(differences) or "each was trained with a sample of its own"


def _facts(codec: TurboQuant, metric: str) -> list[tuple[str, object]]:
    """Return what decides the bytes of codes: words around a value, and the value."""
    return [
        ("metric {}", metric),
        ("d {}", codec.d),
        ("{} bits", codec.nbits),
        ("codebook {}", codec.codebook),
        ("seed {}", codec.seed),
        ("{}", "not trained" if codec.calibration is None else "trained"),
    ]
