# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages: what is in them, what the checkers of the distributions say, and that all of it is one version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nlmfo
from nlmfo.failover import neighbours
from nlmfo.host import view
from nlmfo.host.namespaces import Namespaces
from tests.lab import installed

CHECKOUT = Path(__file__).resolve().parents[1]
SPEC = CHECKOUT / "contrib/rpm/nlmfo.spec"
CHANGELOG = CHECKOUT / "contrib/debian/changelog"
SERVED_HERE = CHECKOUT / "contrib/served-here"
DISTRIBUTION = Path("/usr/lib/python3/dist-packages")
MODULE = f"{DISTRIBUTION}/nlmfo/"
#: Besides the module, the documentation, and what there is of man pages and of the journal's catalog.
FILES = {
    "/etc/needrestart/conf.d/nlmfo.conf",
    "/lib/systemd/system/nlmfo-metrics.service",
    "/lib/systemd/system/nlmfo-metrics.timer",
    "/lib/systemd/system/nlmfo@.service",
    "/usr/lib/ocf/resource.d/nlmfo/nlmfo",
    "/usr/lib/tmpfiles.d/nlmfo.conf",
    "/usr/libexec/nlmfo/nlmfo-callout",
    "/usr/libexec/nlmfo/served-here",
    "/usr/sbin/nlmfo",
    "/usr/share/bash-completion/completions/nlmfo",
    "/usr/share/fish/vendor_completions.d/nlmfo.fish",
    "/usr/share/lintian/overrides/nlmfo",
    "/usr/share/zsh/vendor-completions/_nlmfo",
    *(f"/usr/lib/systemd/catalog/{catalog.name}" for catalog in (CHECKOUT / "systemd").glob("*.catalog")),
}
#: What the RPM has elsewhere, or not.
ONLY_DEBIAN = {"/etc/needrestart/conf.d/nlmfo.conf", "/usr/share/lintian/overrides/nlmfo"}
MOVED = {"/lib/systemd/": "/usr/lib/systemd/", "/usr/share/zsh/vendor-completions/": "/usr/share/zsh/site-functions/"}
#: Fedora's macros, in words that Debian's tools understand; nothing is installed by these, so scriptlets have no work.
MACROS = {
    "python3": "/usr/bin/python3",
    "python3_sitelib": "/usr/lib/python3/dist-packages",
    "_unitdir": "/usr/lib/systemd/system",
    "_tmpfilesdir": "/usr/lib/tmpfiles.d",
    "pyproject_buildrequires": "echo",
    "pyproject_wheel": "python3 -m build --no-isolation --skip-dependency-check --wheel",
    "pyproject_install": "python3 -m installer --prefix /usr --destdir %{buildroot} dist/*",
    "systemd_post()": ":",
    "systemd_preun()": ":",
    "systemd_postun()": ":",
}
#: What a distribution's build sees: its own tools only, and its own directory for modules.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEB_PYTHON_INSTALL_LAYOUT": "deb"}
#: Seconds for any of these programs, on a busy machine.
DEADLINE = 200.0


def said(*argv: str | os.PathLike[str], **environment: str) -> str:
    """What a program prints, which has to succeed."""
    seen = ENVIRONMENT | environment
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=seen, timeout=DEADLINE)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def deb() -> Path:
    return installed.package()


@pytest.fixture(scope="module")
def in_deb(deb: Path) -> set[str]:
    lines = said("dpkg-deb", "--contents", deb).splitlines()
    return {line.split()[5].removeprefix(".") for line in lines if not line.startswith("d")}


def besides(files: set[str]) -> set[str]:
    """Without the module, its metadata, and all documentation."""
    return {name for name in files if not re.match(r"/usr/lib/python3/|/usr/share/(doc|man|licenses)/", name)}


def elsewhere(files: set[str]) -> set[str]:
    """With each where others than Debian have it."""
    for debian, fedora in MOVED.items():
        files = {name.replace(debian, fedora, 1) if name.startswith(debian) else name for name in files}
    return files


def pages(files: set[str]) -> set[str]:
    """The man pages, as they are before they are compressed."""
    return {name.removesuffix(".gz") for name in files if name.startswith("/usr/share/man/")}


def modules(files: set[str]) -> set[str]:
    """The module's, without the bytecode that distributions add, some at the build and some at the installation."""
    return {name.removeprefix(MODULE) for name in files if name.startswith(MODULE) and not name.endswith(".pyc")}


def test_the_debian_package_has_all_of_nlmfo_and_nothing_else(in_deb: set[str]) -> None:
    assert besides(in_deb) == FILES
    assert modules(in_deb) == {str(file.relative_to(CHECKOUT / "nlmfo")) for file in CHECKOUT.glob("nlmfo/**/*.py")}
    documentation = {name.removesuffix(".gz") for name in in_deb if name.startswith("/usr/share/doc/")}
    wanted = ["README.md", "changelog", "examples/nlmfo.toml", "examples/services.d/home.toml"]
    wanted += ["examples/nfs.conf.d/50-nlmfo.conf", "examples/nlmfo.rules.yml", "host-isolation.md"]
    assert {f"/usr/share/doc/nlmfo/{name}" for name in wanted} <= documentation


def test_the_debian_package_has_every_man_page(in_deb: set[str]) -> None:
    sources = [page.stem for page in (CHECKOUT / "docs/man").glob("*.md")]
    assert len(sources) > 2
    assert pages(in_deb) == {f"/usr/share/man/man{name[-1]}/{name}" for name in sources}


def test_the_callout_is_where_nlmfo_looks_for_it(in_deb: set[str]) -> None:
    assert f"{view.INSTALLED}/nlmfo-callout" in in_deb


def test_lintian_has_nothing_to_say(deb: Path) -> None:
    (source,) = deb.parent.glob("*.dsc")
    assert said("lintian", "--fail-on", "error,warning", deb, source) == ""


def test_everything_is_of_one_version() -> None:
    line = re.match(r"nlmfo \((.+)-\d+\) ", CHANGELOG.read_text())
    assert line is not None
    assert line[1] == nlmfo.__version__
    assert said("rpmspec", "-q", "--srpm", "--qf", "%{VERSION}", SPEC) == nlmfo.__version__


def test_the_rpm_has_what_the_debian_package_has(deb: Path, in_deb: set[str], tmp_path: Path) -> None:
    (source,) = deb.parent.glob("*.orig.tar.gz")
    (tmp_path / "SOURCES").mkdir()
    shutil.copy(source, tmp_path / f"SOURCES/nlmfo-{nlmfo.__version__}.tar.gz")
    macros = [f"--define={name} {value}" for name, value in {"_topdir": str(tmp_path), **MACROS}.items()]
    said("rpmbuild", "-bb", "--nodeps", *macros, SPEC)
    (rpm,) = tmp_path.rglob(f"nlmfo-{nlmfo.__version__}-*.rpm")
    in_rpm = set(said("rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", rpm).splitlines())
    files = {name for mode, _, name in (line.partition(" ") for line in in_rpm) if not mode.startswith("d")}
    assert {name for name in besides(files) if "/.build-id/" not in name} == elsewhere(besides(in_deb) - ONLY_DEBIAN)
    assert modules(files) == modules(in_deb)
    assert pages(files) == pages(in_deb)
    scripts = said("rpm", "-qp", "--scripts", rpm)
    assert "first" in scripts[scripts.index("preuninstall") : scripts.index("postuninstall")]


def test_a_package_is_told_which_services_are_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("nlmfo.host.pins.RUN", "nlmfo.failover.neighbours.RUN"):
        monkeypatch.setattr(module, tmp_path)
    assert said(SERVED_HERE, tmp_path / "nowhere") == ""
    pins = Namespaces("spaced").mnt.parent
    for directory in (tmp_path / "spool", tmp_path / "released/log", pins, neighbours.mark("attached").parent):
        directory.mkdir(parents=True)
    assert said(SERVED_HERE, tmp_path) == ""
    neighbours.mark("attached").touch()
    script = 'mount --bind "$1" "$1" && "$2" "$3"'  # as Namespaces.create does
    up = said("unshare", "--mount", "sh", "-c", script, "sh", pins, SERVED_HERE, tmp_path)
    assert up.split() == ["attached", "spaced"]


def test_needrestart_leaves_services_alone_and_nothing_else() -> None:
    program = (
        "our %nrconf; eval do { local $/; <STDIN> }; die $@ if $@; my ($rule) = keys %{$nrconf{override_rc}};"
        'print join(" ", grep { /$rule/ } "nlmfo\\@home.service", "nlmfo-metrics.service", "nfs-server.service")'
    )
    with (CHECKOUT / "contrib/debian/needrestart.conf").open() as settings:
        argv = ["perl", "-we", program]
        left = subprocess.run(argv, stdin=settings, check=True, capture_output=True, text=True, timeout=DEADLINE).stdout
    assert left == "nlmfo@home.service"


def test_the_example_for_nfs_conf_says_what_host_isolation_looks_for() -> None:
    example = CHECKOUT / "contrib/nfs.conf.d/50-nlmfo.conf"
    wanted = {
        ("statd", "ha-callout"): str(view.INSTALLED / "nlmfo-callout"),
        ("statd", "no-notify"): "1",
        ("sm-notify", "lift-grace"): "n",
    }
    got = {key: said("nfsconf", "--file", example, "--get", *key).strip() for key in wanted}
    assert got == wanted


def test_addresses_work_with_the_distributions_pyroute2_which_is_older(tmp_path: Path) -> None:
    for part in (*DISTRIBUTION.glob("pyroute2*"), *DISTRIBUTION.glob("pr2modules*")):
        (tmp_path / part.name).symlink_to(part)
    older = said(sys.executable, "-c", "import pyroute2; print(pyroute2.__file__)", PYTHONPATH=str(tmp_path))
    assert older.startswith(str(tmp_path))
    tests = (CHECKOUT / "tests/unit" / f"test_{name}.py" for name in ("addresses", "node_addresses"))
    pytest_again = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", CHECKOUT)
    assert " passed" in said(*pytest_again, *tests, PYTHONPATH=str(tmp_path))


def test_pip_and_make_install_all_that_the_package_has(in_deb: set[str], tmp_path: Path) -> None:
    modules_of_pip, root = tmp_path / "pip", tmp_path / "root"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    said(*pip, "--target", modules_of_pip, CHECKOUT)
    program = f"{sys.executable} {modules_of_pip}/bin/nlmfo"
    assert nlmfo.__version__ in said(*program.split(), "--version", PYTHONPATH=str(modules_of_pip))
    # Without a compiler, this is the callout.
    assert os.access(modules_of_pip / "nlmfo/_callouts/nlmfo-callout", os.X_OK)
    said("make", "-C", CHECKOUT, "install", f"DESTDIR={root}", f"NLMFO={program}", PYTHONPATH=str(modules_of_pip))
    # Man pages are among them if somebody has made them here.
    by_make = {f"/{file.relative_to(root)}" for file in root.rglob("*") if file.is_file() and "man" not in file.parts}
    expected = elsewhere(besides(in_deb) - ONLY_DEBIAN) - {"/usr/sbin/nlmfo"}
    assert {Path(name).parts[-2:] for name in by_make} == {Path(name).parts[-2:] for name in expected}
    assert {name for name in by_make if not name.startswith("/usr/local/")} == {
        "/usr/lib/ocf/resource.d/nlmfo/nlmfo",
        "/usr/libexec/nlmfo/nlmfo-callout",
        "/usr/libexec/nlmfo/served-here",
    }
