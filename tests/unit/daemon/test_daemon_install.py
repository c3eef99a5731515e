"""`nsstream install-systemd`: shown first, done when told to, undone; below another root, by systemd's own tools."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from nsstream_daemon.install_plan import install_steps, remove_steps
from nsstream_daemon.unit_files import EXAMPLE, check_program, place_of, unit_files

from nsstream.errors import InputError, OutputError

ROOT = Path(__file__).parents[3]
PROGRAM = Path("/srv/nsstream/bin/nsstream")
UNITS = ["nsstreamd.service", "nsstreamd.socket", "nsstream-replay.service"]

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with a program in it."""
    root = tmp_path / "image"
    program = root / PROGRAM.relative_to("/")
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return root


def install(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsstream_daemon", "install-systemd", "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


def files_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in (root / "etc").rglob("*") if path.is_file()}


@needs_systemd
@pytest.mark.root
def test_it_is_shown_done_and_undone(image: Path):
    shown = install(image, "--program", str(PROGRAM), "--gpu")
    assert shown.returncode == 0, shown.stderr
    assert f"write   {image}/etc/systemd/system/nsstreamd.service\n" in shown.stdout
    assert f"run     systemd-sysusers --root={image} nsstream.conf\n" in shown.stdout
    assert shown.stdout.endswith("nothing was done; --yes does it\n")
    assert not (image / "etc").exists()
    assert install(image, "--program", str(PROGRAM), "--gpu", "--yes", "--dry-run").stdout == shown.stdout
    assert not (image / "etc").exists()

    done = install(image, "--program", str(PROGRAM), "--gpu", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"ExecStart={PROGRAM} daemon -c" in (image / "etc/systemd/system/nsstreamd.service").read_text()
    assert "nsstream-replay:x:" in (image / "etc/passwd").read_text()
    assert (image / "var/lib/nsstream/models").stat().st_mode & 0o777 == 0o750
    shutil.copytree("/lib/systemd/system", image / "usr/lib/systemd/system", symlinks=True)  # targets that ours name
    verify = ["systemd-analyze", "verify", "--man=no", f"--root={image}", *UNITS]
    judged = subprocess.run(verify, capture_output=True, text=True, timeout=300)
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, "", "")

    configuration = image / "etc/nsstream/nsstream.toml"
    configuration.write_text("mine")
    (image / "etc/systemd/system/nsstreamd.socket").write_text("of another version")
    again = install(image, "--program", str(PROGRAM), "--yes")
    assert f"keep    {configuration}: one is there\n" in again.stdout
    assert f"replace {image}/etc/systemd/system/nsstreamd.socket\n" in again.stdout
    assert configuration.read_text() == "mine"
    assert "ListenDatagram" in (image / "etc/systemd/system/nsstreamd.socket").read_text()

    removed = install(image, "--remove", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert f"keep    {configuration}: it was edited\n" in removed.stdout
    assert {name for name in files_in(image) if "nsstream" in name} == {"etc/nsstream/nsstream.toml"}
    assert not (image / "etc/systemd/system/nsstreamd.service.d").exists()
    assert (image / "var/lib/nsstream/models").is_dir()


def test_the_example_that_nobody_edited_goes_as_it_came(tmp_path: Path):
    files = unit_files(PROGRAM, has_gpu=False)
    for step in install_steps(files, tmp_path):
        if step.words.startswith("write") and step.do:
            step.do()
    assert len(files_in(tmp_path)) == len(files)
    for step in remove_steps(files[-1].octets, tmp_path):
        if step.words.startswith("remove") and step.do:
            step.do()
    assert files_in(tmp_path) == set()
    assert not (tmp_path / place_of(EXAMPLE).parent.relative_to("/")).exists()


def test_a_masked_unit_is_not_written_over(tmp_path: Path):
    mask = tmp_path / "etc/systemd/system/nsstreamd.service"
    mask.parent.mkdir(parents=True)
    mask.symlink_to("/dev/null")
    with pytest.raises(OutputError, match="perhaps the mark of a masked unit"):
        install_steps(unit_files(PROGRAM, has_gpu=False), tmp_path)


@pytest.mark.parametrize("parts", [("home", "me"), ("root",), ("tmp",), ("var", "tmp"), ("var", "lib")], ids="-".join)
def test_a_program_that_the_units_do_not_see_is_refused(parts: tuple[str, ...], image: Path):
    with pytest.raises(InputError, match="which the units do not see"):
        check_program(Path("/", *parts, "venv/bin/nsstream"), image)


@pytest.mark.parametrize("program", ["bin/nsstream", "/opt/my venv/bin/nsstream", "/opt/50%/bin/nsstream", "/opt/a\nb"])
def test_a_program_that_a_unit_cannot_name_is_refused(program: str, image: Path):
    with pytest.raises(InputError, match="absolute and plain"):
        check_program(Path(program), image)


def test_a_program_that_the_services_cannot_reach_is_refused(image: Path):
    check_program(PROGRAM, image)
    (image / "srv").chmod(0o750)
    with pytest.raises(InputError, match=r"srv: the services' users may not enter"):
        check_program(PROGRAM, image)
    with pytest.raises(InputError, match="no such file or directory; the units could not start it"):
        check_program(Path("/opt/nsstream/bin/nsstream"), image)


def test_a_wheel_carries_what_is_installed(tmp_path: Path):
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.partition("/share/nsstream/systemd/")[2] for name in archive.namelist()} - {""}
    assert carried == {
        str(path.relative_to(ROOT / "systemd")) for path in (ROOT / "systemd").rglob("*") if path.is_file()
    }
