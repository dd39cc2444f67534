"""The ``tqvec`` command, run in this process."""

from typer.testing import CliRunner

from tqvec.cli import app as application
from tqvec.cli._console import console

console.width = 300  # long paths of temporary folders shall not break lines


def run(*arguments):
    result = CliRunner().invoke(application.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
