"""What the workflow names exists: it runs elsewhere, so nothing else would notice here."""

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
(PATH,) = (ROOT / ".github" / "workflows").glob("*.yml")
TEXT = PATH.read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(TEXT)
TRIGGERS = WORKFLOW[True]  # YAML 1.1 reads `on` as a truth value
JOBS = WORKFLOW["jobs"]
MADE = "dist/"  # a folder that the workflow makes
SYSTEMS = {"ubuntu-latest", "ubuntu-24.04-arm", "macos-latest", "windows-latest"}


def steps(job):
    return JOBS[job]["steps"]


def axes(job):
    return JOBS[job].get("strategy", {}).get("matrix", {})


def lines(job):
    """The commands of a job, those of a matrix once for each of its values."""
    for step in steps(job):
        for line in step.get("run", "").splitlines():
            names = re.findall(r"\$\{\{ matrix\.(\w+) \}\}", line)
            for value in axes(job)[names[0]] if names else [""]:
                yield re.sub(r"\$\{\{ matrix\.\w+ \}\}", value, line)


def pythons(job):
    """The versions of Python that a job runs."""
    for step in steps(job):
        if step.get("uses", "").startswith("actions/setup-python@"):
            version = step["with"]["python-version"]
            yield from axes(job)["python"] if "matrix" in version else [version]


def targets(text):
    """What is made in some lines, without options and files."""
    words = {word for line in re.findall(r"^make (.*)$", text, re.MULTILINE) for word in line.split()}
    return {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}


def test_every_step_is_an_action_or_a_command():
    for job, description in JOBS.items():
        assert description["runs-on"]
        for step in steps(job):
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"(actions|pypa)/[\w-]+@(v\d+|release/v1)", step.get("uses", "actions/none@v1"))


def test_what_a_job_refers_to_is_defined():
    for job, description in JOBS.items():
        needs = description.get("needs", [])
        assert set(needs.split() if isinstance(needs, str) else needs) <= set(JOBS) - {job}
        used = re.findall(r"\$\{\{ (.*?) \}\}", yaml.safe_dump(description))
        assert set(used) == {f"matrix.{axis}" for axis in axes(job)}


def test_the_targets_of_make_exist_and_none_is_left_out():
    named = targets("\n".join(line for job in JOBS for line in lines(job)))
    exist = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    assert named <= set(exist)
    assert targets((ROOT / ".ci" / "run").read_text(encoding="utf-8")) | {"docs"} == named


def test_the_extras_exist():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    exist = set(re.findall(r"^([\w-]+) = \[", table, re.MULTILINE))
    named = {extra for names in re.findall(r"\.\[([\w,-]+)\]", TEXT) for extra in names.split(",")}
    assert "test" in named
    assert named <= exist


def test_the_paths_exist():
    named = set(re.findall(r"\btests/[\w./-]*\w", TEXT))
    assert "tests/test_workflow.py" in named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_both_ends_of_python_run_on_every_system():
    """Those that tqvec and Numba allow."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lowest = re.search(r'^requires-python = ">=([\d.]+)"', project, re.MULTILINE)[1]
    supported = {line.rpartition(" ")[2] for line in metadata("numba").get_all("Classifier") if ":: Python ::" in line}
    assert {version for job in JOBS for version in pythons(job)} <= supported
    for job in ("linux", "others", "install"):
        versions = list(pythons(job))
        assert (versions[0], versions[-1]) == (lowest, "3.14")
    assert set(axes("install")["os"]) == {*axes("linux")["os"], *axes("others")["os"]} == SYSTEMS


def test_only_a_tag_is_published_after_all_else():
    others = set(JOBS) - {"publish"}
    assert set(JOBS["publish"]["needs"]) == others
    assert JOBS["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert TRIGGERS["push"]["tags"] == ["v*"]
    assert JOBS["publish"]["permissions"] == {"id-token": "write"}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not [job for job in others if "permissions" in JOBS[job]]
    assert "secrets" not in TEXT


def test_what_is_installed_and_published_is_what_was_built():
    for job in ("build", "install", "publish"):
        (moved,) = [step["with"] for step in steps(job) if re.search("/(up|down)load-artifact@", step.get("uses", ""))]
        assert (moved["name"], moved["path"]) == ("dist", MADE)
    assert "actions/checkout" not in str(steps("install"))
