"""Traces: files with a fault are refused with its line; made ones are what they say."""

import json

import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.kvcache.simulation.traces import WORKLOADS, Request, Workload, generate_requests, read_trace, write_trace

GOOD = {"time": 1.5, "session": "a", "prompt": 10, "output": 5}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_made_trace_survives_a_file(name, tmp_path):
    requests = generate_requests(name, 50_000, seed=10_400)
    write_trace(tmp_path / "t.jsonl", requests)
    assert read_trace(tmp_path / "t.jsonl") == requests
    assert requests == generate_requests(name, 50_000, seed=10_400) != generate_requests(name, 50_000, seed=10_401)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_made_trace_has_the_means_it_says(name):
    kind = WORKLOADS[name]
    requests = generate_requests(name, 3_000_000, seed=10_402)
    sessions = {}
    for request in requests:
        sessions.setdefault(request.session, []).append(request)
    assert {len(turns) for turns in sessions.values()} == {kind.turns}
    made = sum(r.tokens for r in requests) + kind.prefixes * kind.prefix_tokens
    largest = kind.turns * 5 * (kind.first + kind.prompt + kind.output)
    assert 3_000_000 <= made < 3_000_000 + largest
    first = np.array([turns[0].prompt for turns in sessions.values()])
    later = np.array([r.prompt for turns in sessions.values() for r in turns[1:]])
    output = np.array([r.output for r in requests])
    for sizes, mean in ((first, kind.first), (later, kind.prompt), (output, kind.output)):
        assert abs(sizes.mean() - mean) < 7 * sizes.std() / np.sqrt(sizes.size) + 0.5
    assert len({r.prefix for r in requests}) == max(1, kind.prefixes)
    assert sorted(r.time for r in requests) == [r.time for r in requests]


def test_a_workload_of_ones_own():
    requests = generate_requests(Workload(2, 1, 1, 1, 1.0, 1), 1)
    assert [r.session for r in requests] == ["session-0"] * 2
    with pytest.raises(InputError, match="workload must be one of 'chat'"):
        generate_requests("tea", 10)
    with pytest.raises(InputError, match="tokens must be an integer from 1"):
        generate_requests("chat", 0)


def written(tmp_path, *lines):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_lines(tmp_path):
    whole = GOOD | {"session": 7, "prefix": "p", "prefix_tokens": 300}
    path = written(tmp_path, GOOD, "", "  ", whole, GOOD | {"time": 2, "prompt": 0})
    assert read_trace(path) == [
        Request(1.5, "a", 10, 5),
        Request(1.5, "7", 10, 5, "p", 300),
        Request(2.0, "a", 0, 5),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: no JSON"),
        ("[1]", r"line 3: must be an object, got \[1\]"),
        ({k: v for k, v in GOOD.items() if k != "output"}, "line 3: lacks the field 'output'"),
        (GOOD | {"out": 3}, "line 3: has the unknown field 'out'"),
        (GOOD | {"time": -1}, "line 3: time must be 0 or more seconds, got -1"),
        (GOOD | {"time": "now"}, "line 3: time must be a number, got 'now'"),
        ('{"time": NaN, "session": "a", "prompt": 1, "output": 1}', "line 3: time must not be NaN"),
        (GOOD | {"time": 1.0}, r"line 3: time 1\.0 is before 1\.5"),
        (GOOD | {"prompt": 1.5}, r"line 3: prompt must be an integer, got 1\.5"),
        (GOOD | {"output": -2}, "line 3: output must be an integer from 0"),
        (GOOD | {"prompt": 0, "output": 0}, "line 3: a request needs tokens"),
        (GOOD | {"session": None}, "line 3: session must be a name"),
        (GOOD | {"prefix": "p", "prefix_tokens": 3}, "line 3: session 'a' began with another prefix"),
        (GOOD | {"session": "b", "prefix": "p"}, "line 3: prefix_tokens must be an integer, got None"),
        (GOOD | {"session": "b", "prefix": "q", "prefix_tokens": 9}, "line 3: prefix 'q' had 8 tokens before"),
        (GOOD | {"prefix_tokens": 3}, "line 3: prefix_tokens without a prefix"),
    ],
)
def test_the_line_at_fault_is_named(line, message, tmp_path):
    path = written(tmp_path, GOOD, GOOD | {"session": "q", "prefix": "q", "prefix_tokens": 8}, line)
    with pytest.raises(InputError, match=rf"t\.jsonl, {message}"):
        read_trace(path)


def test_an_empty_file(tmp_path):
    with pytest.raises(InputError, match="holds no requests"):
        read_trace(written(tmp_path, ""))
