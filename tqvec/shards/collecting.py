"""Collecting: deletion of files that no reader and no writer of a sharded index needs any longer."""

from __future__ import annotations

import re
import time
from itertools import pairwise

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.shards.folder import Folder
from tqvec.shards.making import NOTES
from tqvec.shards.manifest import manifest_names, read_manifest

# Other files in the folder are no business of ours. Those that end in .tmp are of killed processes.
_OURS = re.compile(
    r"(shards|records)/[0-9]+-[0-9a-f]{16}\..+|codec-[0-9a-f]+\.tqv.*|manifests/.+\.[0-9a-f]{8}\.tmp|" + NOTES + r"/.+"
)


def collect(folder: Folder, older_than: float, *, dry_run: bool = False, now: float | None = None) -> list[str]:
    """Delete old versions of a sharded index, and files that no version names.

    The newest manifest stays, and so do those that were the newest within the time, since readers may use them, and all
    files of these. Files that were written within the time stay too: an append may be going on. While one notes its
    shards in the folder ``building``, only manifests are deleted.

    Parameters
    ----------
    folder : Folder
    older_than : float
        Seconds. It must exceed by a day what an append takes, and what readers take to see a new version.
    dry_run : bool
        Delete nothing.
    now : float, optional
        Seconds since 1970. Default: the time of this machine.

    Returns
    -------
    list of str
        Names of the files that were, or would be, deleted.

    Raises
    ------
    FileNotFoundError
        There is no manifest, so nothing is deleted.
    FormatError
        A manifest that stays is damaged; nothing is deleted.
    """
    if not isinstance(dry_run, bool):
        raise InputError(f"dry_run must be True or False, got {dry_run!r}")
    seconds = _validate.number(older_than, "older_than")
    if not seconds >= 0:
        raise InputError(f"older_than must be at least 0 seconds, got {older_than!r}")
    limit = (time.time() if now is None else now) - seconds
    times = folder.times()  # before the manifests are read: what is written later is not deleted
    manifests = manifest_names(folder)
    # Each was replaced when the next one was written.
    outdated = [one for one, following in pairwise(manifests) if times.get(manifests[following], limit) < limit]
    kept = {file.name for file in read_manifest(folder).files}
    for number in manifests.keys() - outdated:
        kept |= {file.name for file in read_manifest(folder, number).files}
    names = [manifests[number] for number in outdated]
    if not any(name.startswith(f"{NOTES}/") and written >= limit for name, written in times.items()):
        old = (name for name, written in times.items() if written < limit and _OURS.fullmatch(name))
        names += sorted(name for name in old if name not in kept)
    if not dry_run:
        for name in names:
            folder.delete(name)
    return names
