"""``python kills.py FOLDER``: processes that save and build are killed, and what they leave is looked at.

Children are forked from one warm process: at random moments while they work, and before every line of the modules that
write. Prints the number of kills, and how many builds were resumed, as JSON.
"""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import tqvec
from tqvec import _atomic, _output
from tqvec.cli import build
from tqvec.errors import FormatError
from tqvec.index.file import io as index_io
from tqvec.index.file import resume
from tqvec.index.rows import encode_rows

WRITERS = {module.__file__ for module in (_atomic, _output, resume, index_io)}
RANDOM_KILLS = 60  # of each kind
X = np.random.default_rng(10_040).standard_normal((4000, 16)).astype(np.float32)


def fork(work, line=None):
    """Process id of a child that works, and dies before a line of WRITERS, counted as they are run."""
    child = os.fork()
    if child:
        return child
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename not in WRITERS:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        if line is not None:
            sys.settrace(trace)
        work()
        os._exit(0)
    except BaseException as error:
        os.write(2, f"child: {error!r}\n".encode())
        os._exit(1)


def wait_for(child, after=None):
    """Whether a child came to its end, or was killed after some time."""
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "a child failed"
    return True


def whole(path, contents):
    """The file is one of those that may be there."""
    assert path.read_bytes() in contents
    index_io.load(path, verify=True)


def kill_savers(folder):
    """Random moments, then every line."""
    path, codec = folder / "a.tqv", tqvec.TurboQuant(16)
    rows = encode_rows(codec, "l2", X, 1)
    contents = []

    def save(n):
        parts = ({name: array[i : i + 500] for name, array in rows.items()} for i in range(0, n, 500))
        index_io.save(path, codec, "l2", n, parts)

    for n in (1000, 4000):
        save(n)
        contents.append(path.read_bytes())

    def for_ever():
        while True:
            save(1000)
            save(4000)

    kills = 0
    for _ in range(RANDOM_KILLS):
        wait_for(fork(for_ever), random.uniform(0.001, 0.015))
        whole(path, contents)
        kills += 1
    line = 1
    while not wait_for(fork(lambda: save(1000), line)):
        whole(path, contents)
        save(4000)
        assert [file.name for file in folder.iterdir()] == ["a.tqv"], "the next save deletes what a killed one left"
        kills, line = kills + 1, line + 1
    whole(path, contents[:1])
    return kills


def kill_builders(folder):
    """Random moments, then every seventh line; each resumes the one before, until the file is there."""
    source, path, log = folder / "x.npy", folder / "b.tqv", folder / "log"
    np.save(source, X)
    build._ROWS, build._SECONDS = 250, 0.0
    sys.stderr = io.StringIO()  # the progress bar

    def work():
        with log.open("a") as file:
            build.console.file = file
            build.build(source, path, nbits=3, codebook="scalar", metric="l2", seed=1, threads=1)

    work()
    expected = path.read_bytes()
    path.unlink()

    def kill(**when):
        """Whether a child was killed before the file was there."""
        done = wait_for(fork(work, when.get("line")), when.get("after"))
        if path.exists():
            whole(path, [expected])
            path.unlink()
            return False
        assert not done
        part = folder / "b.tqv.part"
        with contextlib.suppress(FileNotFoundError, FormatError):
            index_io.load(part)
            assert part.read_bytes() == expected, "what is not complete was read"  # it may only lack its name
        return True

    kills = sum(kill(after=random.uniform(0.001, 0.03)) for _ in range(RANDOM_KILLS))
    kills += sum(kill(line=line) for line in range(1, 700, 7))
    resumed = log.read_text().count("goes on behind")
    wait_for(fork(work))
    whole(path, [expected])
    assert {file.name for file in folder.iterdir()} == {"b.tqv", "x.npy", "log"}
    return {"builds": kills, "resumed": resumed}


if __name__ == "__main__":
    random.seed(10_041)
    folders = [Path(sys.argv[1]) / name for name in ("saves", "builds")]
    for folder in folders:
        folder.mkdir()
    print(json.dumps({"saves": kill_savers(folders[0]), **kill_builders(folders[1])}))
