"""Every way in which a path is no new plain file: nothing that a user would miss is lost, or even touched."""

import errno
import os
import re
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tqvec
from tqvec import _atomic, _output
from tqvec._output import Kind, Output
from tqvec.errors import InputError
from tqvec.kvcache import KVCache
from tqvec.kvcache.simulation import Request, write_trace

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")

X = np.random.default_rng(10_060).standard_normal((30, 16)).astype(np.float32)


def index_of(n=3):
    index = tqvec.Index(16)
    index.add(X[:n])
    return index


def cache_of():
    cache = KVCache(1, 1, 16, "exact")
    cache.append(0, X[None], X[None])
    return cache


def trace(path, **options):
    write_trace(path, [Request(time=0.0, session="a", prompt=3, output=4)], **options)


SAVERS = {"index": index_of().save, "cache": cache_of().save, "trace": trace}
savers = pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@savers
@as_root
def test_devices_are_written_through(tmp_path, save):
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    save(tmp_path / "null")
    assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)
    os.symlink("null", tmp_path / "link")
    save(tmp_path / "link")
    assert names(tmp_path) == ["link", "null"]
    os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    with pytest.raises(OSError, match=r"No space left on device: '.*full'"):
        save(tmp_path / "full")
    os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(1, 250))
    with pytest.raises(InputError, match="disk: is a socket or a block device"):
        save(tmp_path / "disk")


@savers
@posix
def test_fifos_get_the_whole_file(tmp_path, save):
    path, got = tmp_path / "fifo", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    save(path)
    reader.join()
    save(tmp_path / "file")
    assert got == [(tmp_path / "file").read_bytes()]
    assert stat.S_ISFIFO(path.stat().st_mode)


@posix
def test_a_reader_that_goes_away(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    index = tqvec.Index(64)
    index.add(np.ones((20_000, 64), np.float32))
    reader = threading.Thread(target=lambda: path.open("rb").close())
    reader.start()
    with pytest.raises(BrokenPipeError, match="fifo"):
        index.save(path)
    reader.join()


@posix
def test_standard_output_and_open_files(tmp_path):
    script = "import tqvec, numpy as np; i = tqvec.Index(16); i.save('/dev/stdout')"
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    with (tmp_path / "a").open("wb") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
    assert piped == (tmp_path / "a").read_bytes()
    assert len(tqvec.Index.load(tmp_path / "a")) == 0
    if not Path("/proc/self/fd").exists():
        return
    with (tmp_path / "b").open("wb") as file:
        (tmp_path / "b").unlink()
        with pytest.raises(InputError, match="has no name any more"):
            index_of().save(f"/proc/self/fd/{file.fileno()}")
    assert names(tmp_path) == ["a"]


@posix
def test_sockets_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
        with pytest.raises(InputError, match="s: is a socket"):
            index_of().save("s")
    assert stat.S_ISSOCK(Path("s").stat().st_mode)


@savers
@posix
def test_links_are_followed(tmp_path, save):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    os.symlink("../far/x", tmp_path / "near" / "one")
    os.symlink("one", tmp_path / "near" / "two")
    save(tmp_path / "near" / "two")  # it dangles
    before = (tmp_path / "far" / "x").stat().st_ino
    save(tmp_path / "near" / "two")
    assert names(tmp_path / "near") == ["one", "two"]
    assert (tmp_path / "near" / "one").is_symlink()
    assert (tmp_path / "near" / "two").is_symlink()
    assert names(tmp_path / "far") == ["x"]
    assert (tmp_path / "far" / "x").stat().st_ino != before
    os.symlink("nowhere/x", tmp_path / "lost")
    with pytest.raises(FileNotFoundError, match="lost: its folder does not exist"):
        save(tmp_path / "lost")
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        save(tmp_path / "loop")


@savers
@posix
def test_the_mode_is_kept(tmp_path, save):
    path = tmp_path / "a"
    save(path)
    assert mode_of(path) == 0o644
    for mode in (0o600, 0o660, 0o640, 0o606):
        path.chmod(mode)
        save(path)
        assert mode_of(path) == mode


@posix
def test_the_temporary_file_is_never_more_readable(tmp_path, monkeypatch):
    path, modes = tmp_path / "a", set()
    index = index_of()
    index.save(path)
    path.chmod(0o600)

    def look(*_):
        modes.update(mode_of(each) for each in tmp_path.iterdir())

    flush, replace = _atomic.flush, os.replace
    monkeypatch.setattr(_atomic, "flush", lambda file: (look(), flush(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (look(), replace(*names)))
    index.save(path)
    assert modes == {0o600}


@as_root
def test_the_owner_is_kept(tmp_path):
    path = tmp_path / "a"
    index_of().save(path)
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    index_of().save(path)
    state = path.stat()
    assert (state.st_uid, state.st_gid, mode_of(path)) == (1234, 2345, 0o640)


def as_user(folder, script, groups=()):
    """Run a script as a user without rights, in a process that has all modules already."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            os.setgroups(groups)
            os.setgid(60_001)
            os.setuid(60_001)
            script()
            status = 0
        except BaseException as error:
            os.write(2, f"child: {error!r}\n".encode())
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refused(error, match, path, **options):
    with pytest.raises(error, match=match):
        index_of().save(path, **options)


@pytest.fixture
def open_folder(tmp_path):
    """A folder that everybody may write to, and reach."""
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o755)
    tmp_path.chmod(0o777)
    return tmp_path


@as_root
def test_what_a_user_may_not(open_folder):
    path = open_folder / "a"
    index_of().save(path)
    os.chown(path, 60_002, 60_003)
    path.chmod(0o664)
    (open_folder / "shut").mkdir(0o755)
    (open_folder / "dark").mkdir()
    (open_folder / "dark").chmod(0o733)
    (open_folder / "none").mkdir(0o700)

    def script():
        refused(PermissionError, "a: you have no right to write to it", path)
        refused(PermissionError, "shut/b: nothing can be written to its folder", "shut/b")
        refused(PermissionError, "none/b", "none/b")
        index_of().save(path, overwrite=True)  # group and owner can't be kept: their rights become those of others
        assert mode_of(path) == 0o644
        assert path.stat().st_uid == 60_001
        for _ in range(2):
            index_of().save("dark/b")  # a folder that this user may not list, nor force to the disk
        os.chmod(path, 0o444)
        refused(PermissionError, "a: you have no right", path)

    as_user(open_folder, script)
    os.chown(path, 60_002, 60_003)
    path.chmod(0o660)
    as_user(open_folder, lambda: index_of().save(path), groups=[60_003])
    assert (path.stat().st_gid, mode_of(path)) == (60_003, 0o660)
    assert {name for name in names(open_folder) if name.endswith("tmp")} == set()


FOREIGN = {
    "text": b"dear diary\n",
    "zip": b"PK\x03\x04" + b"x" * 100,
    "weights": b"\x40" + b"\0" * 7 + b'{"__metadata__":{"format":"pt"}}' + b" " * 32,
    "short": b"\0",
}


@savers
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_stay(tmp_path, save, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a: there is a file that is not .*, or replace it with overwrite=True"):
        save(path)
    assert path.read_bytes() == content
    assert names(tmp_path) == ["a"]
    save(path, overwrite=True)
    save(path)
    path.write_bytes(b"")
    save(path)


def test_an_index_does_not_replace_a_cache(tmp_path):
    cache_of().save(tmp_path / "a")
    with pytest.raises(InputError, match="not an index of tqvec"):
        index_of().save(tmp_path / "a")
    index_of().save(tmp_path / "b")
    with pytest.raises(InputError, match="not a cache of tqvec"):
        cache_of().save(tmp_path / "b")


@pytest.mark.parametrize("version", ["v1", "v5-trained", "v6-ids"])
def test_files_of_all_versions_are_replaced(tmp_path, request, version):
    path = tmp_path / "a"
    path.write_bytes((request.path.parent / "golden" / "indexes" / f"{version}.tqv").read_bytes())
    index_of().save(path)


@savers
def test_places_where_no_file_can_be(tmp_path, save):
    (tmp_path / "file").write_bytes(b"")
    for path, error, message in (
        (tmp_path, IsADirectoryError, "is a folder; name a file"),
        (tmp_path / "none" / "a", FileNotFoundError, "none/a: its folder does not exist"),
        (tmp_path / "file" / "a", NotADirectoryError, "file/a"),
        (tmp_path / ("x" * 300), OSError, "xxx"),
        ("", InputError, "name of a file"),
        ("a\0b", InputError, "name of a file"),
        (None, InputError, "path must be a str or a path, got NoneType"),
        (3, InputError, "got int"),
    ):
        with pytest.raises(error, match=message):
            save(path)
    assert names(tmp_path) == ["file"]


def test_long_names(tmp_path):
    """Names that leave no room for an ending, in letters of one and of three bytes."""
    for name in ("x" * 255, "x" * 246, "x" * 242, "語" * 85, "語" * 80 + "x" * 12):
        for _ in range(2):
            index_of().save(tmp_path / name)
        assert names(tmp_path) == [name]
        left = _atomic.name_beside(tmp_path / name, ".01234567.tmp")
        left.write_bytes(b"")
        index_of().save(tmp_path / name)
        assert names(tmp_path) == [name]
        (tmp_path / name).unlink()


def failing(function, number, on=lambda *_: True):
    def broken(*arguments):
        if on(*arguments):
            raise OSError(number, os.strerror(number))
        return function(*arguments)

    return broken


def is_folder(number):
    return stat.S_ISDIR(os.fstat(number).st_mode)


@savers
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EBADF, errno.ENOTSUP])
def test_folders_that_refuse_to_be_forced_to_the_disk(tmp_path, monkeypatch, save, number):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, number, is_folder))
    save(tmp_path / "a")
    assert names(tmp_path) == ["a"]


@savers
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, save, number):
    path = tmp_path / "a"
    save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", failing(os.fsync, number))
    with pytest.raises(OSError, match=r"/a'") as caught:
        save(path)
    assert caught.value.errno == number
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_limit_of_file_sizes(tmp_path):
    script = """
        import resource, signal, sys, numpy as np, tqvec
        index = tqvec.Index(64)
        index.add(np.ones((4000, 64), np.float32))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            index.save(sys.argv[1])
        except OSError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"File too large: '.*/a'", done.stdout)
    assert names(tmp_path) == []


@savers
def test_a_mounted_file(tmp_path, monkeypatch, save):
    """It can be written to, but not replaced; where that can be known it is said before any work."""
    path = tmp_path / "a"
    save(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing(os.replace, errno.EBUSY))
        with pytest.raises(OSError, match="mounted by itself, so it can't be replaced; mount its folder: '.*a'"):
            save(path)
    monkeypatch.setattr(_output, "_mount", str)
    with pytest.raises(OSError, match="mounted by itself"):
        save(path)
    assert names(tmp_path) == ["a"]


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_file_that_is_really_mounted(tmp_path):
    index_of().save(tmp_path / "a")
    index_of(9).save(tmp_path / "b")
    if subprocess.run(["mount", "--bind", tmp_path / "a", tmp_path / "b"], check=False, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        with pytest.raises(OSError, match="mounted by itself"):
            index_of(5).save(tmp_path / "b")
    finally:
        subprocess.run(["umount", tmp_path / "b"], check=True)
    assert len(tqvec.Index.load(tmp_path / "b")) == 9


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_read_only_file_system(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "x", tmp_path], check=False, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        with pytest.raises(PermissionError, match="a: nothing can be written to its folder: .*read-only"):
            index_of().save(tmp_path / "a")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


KIND = Kind("a text", re.compile(rb"\Atext"))


def test_an_output_that_is_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("source").write_bytes(b"text")
    Path("folder").mkdir()
    os.link("source", "hard")
    os.symlink("source", "soft")
    os.symlink("missing", "dangling")
    for path in ("source", "./source", "folder/../source", "hard", "soft", tmp_path / "source"):
        for options in ({}, {"overwrite": True}):
            with pytest.raises(InputError, match="is the same file as source"):
                Output(path, KIND, inputs=["other", "source"], **options)
    with pytest.raises(InputError, match="is the same file as missing"):
        Output("dangling", KIND, inputs=["missing"])
    Output("other", KIND, inputs=["source", "missing"])
    assert Path("source").read_bytes() == b"text"


@posix
def test_what_lies_in_the_way_beside(tmp_path):
    path = tmp_path / "a"
    beside = partial(Output(path, KIND).beside, ".part", KIND)
    side = tmp_path / "a.part"
    for make, message in (
        (lambda: side.write_bytes(b"mine"), "not a text"),
        (lambda: os.symlink("b", side), "is a link; delete it"),
        (lambda: os.mkfifo(side), "is a device or FIFO; delete it"),
    ):
        make()
        with pytest.raises(InputError, match=message):
            beside()
        side.unlink()
    side.mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        beside()


def test_an_exception_leaves_nothing(tmp_path):
    output = Output(tmp_path / "a", KIND)
    with pytest.raises(TypeError), output.open() as file:
        file.writelines([b"text", None])
    assert names(tmp_path) == []
