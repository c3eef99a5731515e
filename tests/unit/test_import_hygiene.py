"""What a process loads: each runs in an interpreter of its own, because imports cannot be taken back."""

import subprocess
import sys

import pytest


def _loaded_after(statements: str) -> set[str]:
    """Top-level modules in sys.modules after these statements."""
    code = f"{statements}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module",
    [
        "nsstream_daemon.cli",
        "nsstream_daemon.supervisor",
        "nsstream.pipeline",
        "nsstream.replay.client",
        "nsstream.score",
        "nsstream.chunk",
        "nsstream.capture",
        "nsstream.encode",
        "nsstream.assemble",
        "nsstream.trace",
        "nsstream.wire",
        "nsstream.train.private_plan",
    ],
)
def test_torch_is_not_loaded_by(module: str) -> None:
    assert "torch" not in _loaded_after(f"import {module}")


def test_ray_is_not_loaded_by_the_daemon_nor_by_its_engine() -> None:
    assert "ray" not in _loaded_after("import nsstream_daemon.supervisor, nsstream.pipeline.ray_engine")


def test_gensim_is_loaded_only_to_learn_words() -> None:
    assert "gensim" not in _loaded_after("import nsstream.train.worker, nsstream.encode.skip_gram")


def test_the_help_loads_nothing_that_takes_long() -> None:
    ask = "import nsstream_daemon.cli as cli, sys\nsys.argv = ['nsstream', '--help']\n"
    ask += "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    assert not _loaded_after(ask) & {"torch", "sklearn", "scipy", "pandas"}


def test_the_score_loads_scikit_learn_only_to_detect() -> None:
    assert not _loaded_after("import nsstream.score") & {"sklearn", "rich"}  # numba itself loads scipy


def test_an_extcap_that_is_only_asked_what_there_is_loads_nothing() -> None:
    bare = _loaded_after("")
    asked = (["--extcap-interfaces", "--extcap-version=4.0"], ["--extcap-dlts", "--extcap-interface", "nsstream-synth"],
             ["--extcap-config", "--extcap-interface", "nsstream-synth"])  # fmt: skip
    for arguments in asked:
        loaded = _loaded_after(
            f"from nsstream_plugins.extcap.__main__ import main\nassert main(['nsstream-synth', *{arguments}]) == 0"
        )
        assert loaded - bare == {"__future__", "nsstream_plugins"}
