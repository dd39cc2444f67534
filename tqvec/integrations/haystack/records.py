"""Records: documents as a collection keeps them.

A record's metadata has the fields that filters ask for, under Haystack's own names:

- ``embedding``: False if the document has none. Its vector is zero then, and searches for vectors leave it out.
- ``meta.<name>``: a value of `Document.meta`. Names whose value is None are listed in ``none``, since a collection has
  no None. Those of datetime objects, which are kept as ISO texts, are listed in ``datetimes``.
- ``wall.<name>`` and ``utc.<name>``: the microseconds of a value that is a date, by its own clock and, if it has a time
  zone, in UTC. As texts dates have no order: some have a time or a zone, and others don't.
- ``score``, ``blob`` and ``sparse_embedding`` of a document that has them.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
from dateutil.parser import isoparse
from haystack.dataclasses import ByteStream, Document, SparseEmbedding

from tqvec._types import Floats
from tqvec.errors import InputError
from tqvec.store.hits import Hits
from tqvec.store.records import write_metadata

Fields = dict[str, Any]
WITH_VECTORS = ("documents", "metadatas", "vectors")
WITHOUT_VECTORS = WITH_VECTORS[:2]
HAS_EMBEDDING: Mapping[str, Any] = {"embedding": {"$ne": False}}
_META, _DATES = "meta.", ("wall.", "utc.")
_FULL_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([Tt ].*)?")
_EPOCH, _MICROSECOND = datetime(1970, 1, 1), timedelta(microseconds=1)


class Moment(NamedTuple):
    """A date and time, in microseconds since 1970.

    Attributes
    ----------
    wall : int
        By the date's own clock.
    utc : int or None
        None without a time zone.
    """

    wall: int
    utc: int | None


def read_moment(value: object) -> Moment | None:
    """Return the moment of a datetime, or of a text in ISO 8601 with a full date; None for anything else."""
    if isinstance(value, str):
        if not _FULL_DATE.fullmatch(value):
            return None
        try:
            value = isoparse(value)
        except (ValueError, OverflowError):
            return None
    if not isinstance(value, datetime):
        return None
    wall, offset = (value.replace(tzinfo=None) - _EPOCH) // _MICROSECOND, value.utcoffset()
    return Moment(wall, None if offset is None else wall - offset // _MICROSECOND)


def index_fields(name: str) -> list[str]:
    """Return the fields of a record that conditions on a field of the meta read."""
    return [prefix + name for prefix in (_META, *_DATES)]


def write_meta(meta: Mapping[str, Any], place: str) -> Fields:
    """Return the fields of a document's meta; messages of errors begin with `place`.

    Raises
    ------
    InputError
        A value would not come back as it is, or a name can't be kept.
    """
    fields: Fields = {}
    nones, datetimes = [], []
    for name, value in meta.items():
        if not isinstance(name, str):
            raise InputError(f"{place}: meta must have str as names, got {name!r}")
        if value is None:
            nones.append(name)
            continue
        moment = read_moment(value)
        if type(value) is datetime and type(value.tzinfo) in (type(None), timezone):
            datetimes.append(name)
            value = value.isoformat()  # noqa: PLW2901
        fields[_META + name] = value
        if moment is not None:
            fields.update(zip((prefix + name for prefix in _DATES), moment, strict=True))
    fields.update({key: names for key, names in (("none", nones), ("datetimes", datetimes)) if names})
    return _checked({key: value for key, value in fields.items() if value is not None}, place)


def read_meta(fields: Fields) -> dict[str, Any]:
    """Return the meta of a document from the fields of its record."""
    meta = {key.removeprefix(_META): value for key, value in fields.items() if key.startswith(_META)}
    meta.update((name, datetime.fromisoformat(meta[name])) for name in fields.get("datetimes", ()))
    return {**meta, **dict.fromkeys(fields.get("none", ()))}


def write_fields(document: Document, place: str) -> Fields:
    """Return the fields of a document's record, as `write_meta` does.

    Raises
    ------
    InputError
        As `write_meta`.
    """
    blob, sparse = document.blob, document.sparse_embedding
    fields = {
        "embedding": False if document.embedding is None else None,
        "score": document.score,
        "blob": None if blob is None else {**vars(blob), "data": b64encode(blob.data).decode()},
        "sparse_embedding": None if sparse is None else sparse.to_dict(),
    }
    given = _checked({key: value for key, value in fields.items() if value is not None}, place)
    return {**given, **write_meta(document.meta, place)}


def write_vector(document: Document, d: int, place: str) -> Floats:
    """Return the embedding of a document as (d,) float32; zeros if it has none.

    Raises
    ------
    InputError
        It isn't `d` finite numbers.
    """
    if document.embedding is None:
        return np.zeros(d, np.float32)
    vector = np.asarray(document.embedding)
    if vector.shape != (d,) or vector.dtype.kind not in "fiu" or not np.isfinite(vector).all():
        raise InputError(
            f"{place}: the embedding must be {d} finite numbers, got {vector.dtype} of shape {vector.shape}"
        )
    return vector.astype(np.float32)


def read_documents(hits: Hits, smaller_is_better: bool = False) -> list[Document]:
    """Return the documents of records: with the scores of a search, and with embeddings if hits have vectors.

    Parameters
    ----------
    hits : Hits
        With documents and metadatas.
    smaller_is_better : bool
        Whether scores are distances. Their sign changes: in Haystack larger scores are better.
    """
    assert hits.documents is not None
    assert hits.metadatas is not None
    documents = []
    for i, fields in enumerate(hits.metadatas):
        blob, sparse, score = fields.get("blob"), fields.get("sparse_embedding"), fields.get("score")
        if hits.scores is not None:
            score = float(-hits.scores[i] if smaller_is_better else hits.scores[i])
        has_embedding = hits.vectors is not None and fields.get("embedding") is not False
        documents.append(
            Document(
                id=hits.ids[i],
                content=hits.documents[i],
                blob=None if blob is None else ByteStream(**{**blob, "data": b64decode(blob["data"])}),
                meta=read_meta(fields),
                score=score,
                embedding=hits.vectors[i].tolist() if has_embedding and hits.vectors is not None else None,
                sparse_embedding=None if sparse is None else SparseEmbedding(**sparse),
            )
        )
    return documents


def _checked(fields: Fields, place: str) -> Fields:
    """Return fields that come back from a collection as they are."""
    try:
        kept = json.loads(write_metadata(fields, 0))
    except InputError as error:
        raise InputError(str(error).replace("metadatas row 0", place, 1)) from None
    for name, value in fields.items():
        same = kept.get(name) == value
        if not (isinstance(same, (bool, np.bool_)) and same):
            raise InputError(
                f"{place}: {name} can't be kept exactly, as it would come back as {kept.get(name)!r}; use "
                "finite numbers, str, bool, and lists and dicts of these"
            )
    return fields
