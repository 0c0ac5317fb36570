"""Run a command on another Debian: the newer servers, the newer Wine, as root.

    python tests/lab/chroot.py trixie                        build it, run nothing
    python tests/lab/chroot.py trixie python -m pytest tests/lab
    python tests/lab/chroot.py sid COMMAND...

A chroot is made by debootstrap once, from the mirror that this machine's apt uses,
and kept in $XDG_CACHE_HOME/sspi_client-debian or ~/.cache/sspi_client-debian (3 GB
each). A run brings what changed up to date: Debian's packages, the Python packages of
requirements.txt, Windows CPython on the Wine in there. The folder may be deleted at
any time.

The command runs in the repository, which it can read and not write, with namespaces
of its own: a network that has loopback alone, so that fixed ports are free; mounts and
processes, which the kernel removes when the command has ended, however it ends. Its
/tmp is empty and goes with it. `python` is the chroot's own, with its requirements.

The exit status is the command's, or 2 with one line that says why there is no chroot.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests" / "wine")]
import servers  # noqa: E402
import windows  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = CACHE.resolve() / "sspi_client-debian"
RELEASES = ("trixie", "sid")

# What the tests need beside the packages of servers.py and windows.py.
PACKAGES = (
    "chromium",
    "default-jdk-headless",
    "python3-pip",
    "python3-venv",
    "samba-ad-dc",                  # a package of its own since Debian 13
    "util-linux-extra",
)
APT = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "Acquire::Retries=3"]
REQUIREMENTS = HERE / "requirements.txt"

# In the chroot.
SOURCE = "/src"                     # where the repository is
VENV = "/root/venv"
STAMPS = "var/lib/sspi_client"      # one file for each step: what it was built to
BUNDLE = "etc/ssl/certs/of-the-host.crt"

# No manuals and no translations: many small files, and nobody reads them there.
DPKG = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
"""


class Missing(Exception):
    """This machine cannot have the chroot: one line that says why."""


# -- Building ------------------------------------------------------------------


def build(release, packages=PACKAGES):
    """Return the folder of the chroot of *release*, built and up to date.

    Raises: Missing if this machine cannot have it.
    """
    _require()
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / release
    with _locked(release):
        _bootstrap(release, folder)
        _take_over(folder)
        wanted = sorted({*servers.PACKAGES, *windows.DEBIAN, *packages})
        _step(folder, "packages", " ".join(wanted), lambda: _install(folder, wanted))
        _step(folder, "venv", REQUIREMENTS.read_text(), lambda: _fill_venv(folder))
        _say("Windows CPython in", folder)
        _inside(folder, "windows", ["python3", "tests/wine/windows.py", "--setup-only"])
    return folder


def _require():
    if os.geteuid() != 0:
        raise Missing("a chroot and its servers need root")
    for program in ("apt-get", "unshare", "ip"):
        if not shutil.which(program):
            raise Missing(f"{program} not found: a chroot is made on Debian alone")
    if not shutil.which("debootstrap"):
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
        _try(apt + ["update"], "apt-get update fails")
        _try(apt + ["install", "--no-install-recommends", "debootstrap"],
             "debootstrap cannot be installed")


def _bootstrap(release, folder):
    if _read(folder / STAMPS / "base") == release:
        return
    _say("building", folder)
    half = CACHE / f"{release}.half"
    _remove(folder)
    _remove(half)
    proxy = _apt_value("Acquire::http::Proxy")
    _try(["debootstrap", "--variant=minbase", "--include=ca-certificates", release,
          str(half), _mirror()], f"debootstrap {release} failed",
         dict(os.environ, **({"http_proxy": proxy} if proxy else {})))
    (half / "etc/dpkg/dpkg.cfg.d/of-the-lab").write_text(DPKG)
    policy = half / "usr/sbin/policy-rc.d"      # no package may start its service
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    (half / STAMPS).mkdir(parents=True)
    (half / STAMPS / "base").write_text(release)
    half.rename(folder)


def _take_over(folder):
    """Let apt and pip in the chroot reach what they reach on this machine."""
    for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf"):
        if Path(name).exists():
            shutil.copy(name, str(folder / name[1:]))
    certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    if Path(certificates).exists():
        shutil.copy(certificates, str(folder / BUNDLE))
    logins = Path("/etc/apt/auth.conf.d")
    if logins.is_dir():
        shutil.copytree(str(logins), str(folder / "etc/apt/auth.conf.d"),
                        dirs_exist_ok=True)
    # A mirror that stands still shows Release files that have expired.
    lines = ['Acquire::Check-Valid-Until "false";']
    lines += [line for line in _output(["apt-config", "dump"]).splitlines()
              if re.match(r'Acquire::https?::.+ ".+";', line)]
    (folder / "etc/apt/apt.conf.d/of-the-host").write_text("\n".join(lines) + "\n")


def _mirror():
    """Return the URL from which apt on this machine gets its own release."""
    release = Path("/etc/os-release").read_text()
    [codename] = re.findall(r"^VERSION_CODENAME=(\w+)", release, re.M) or ["sid"]
    targets = _output(["apt-get", "indextargets", "--format",
                       "$(RELEASE) $(COMPONENT) $(REPO_URI)"])
    for line in targets.splitlines():
        name, component, *url = line.split(" ")
        if (name, component) in ((codename, "main"), ("stable", "main")) and url:
            return url[0]
    raise Missing(f"apt on this machine names no mirror of Debian's {codename} main")


def _apt_value(name):
    words = _output(["apt-config", "shell", "VALUE", name])
    return words.partition("'")[2].rpartition("'")[0]


def _install(folder, packages):
    _inside(folder, "apt", [*APT, "update"])
    _inside(folder, "apt", [*APT, "install", *packages])
    for archive in (folder / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


def _fill_venv(folder):
    make = ["python3", "-m", "venv", "--system-site-packages", "--clear", VENV]
    _inside(folder, "venv", make)
    wanted = ["pytest", "pytest-mock", "-r", f"{SOURCE}/tests/lab/requirements.txt"]
    _inside(folder, "venv", [f"{VENV}/bin/pip", "install", "-q", *wanted])


def _step(folder, name, recipe, make):
    """Do make() unless it was done to this *recipe* before."""
    stamp = folder / STAMPS / name
    if _read(stamp) == recipe:
        return
    _say(name, "in", folder)
    make()
    stamp.write_text(recipe)


# -- Running -------------------------------------------------------------------

# Process 1 of the namespace: a shell that waits, because who is left without a parent
# has to be waited for by somebody. /dev, /sys and the repository are the host's.
INIT = """\
set -e
root=$1; shift
ip link set lo up
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs run "$root/run"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mkdir -p "$root{source}"
mount --bind "{repository}" "$root{source}"
mount -o remount,bind,ro "$root{source}"
set +e
chroot "$root" env --chdir={source} "$@"
exit $?
"""


def command(folder, arguments, network=False, environment=()):
    """Return the command line that runs *arguments* in the chroot *folder*."""
    init = INIT.format(source=SOURCE, repository=ROOT)
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    unshare += [] if network else ["--net"]
    variables = [f"{name}={value}" for name, value in _environment().items()]
    return [*unshare, "sh", "-c", init, "init", str(folder), "-i", *variables,
            *environment, *arguments]


def _environment():
    """Return the variables of a command: few, and pip's and the proxies' as here."""
    ours = {
        "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb"),
        "PATH": f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
                ":/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive", "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        # In there nothing may be missing.
        "SSPI_CLIENT_LAB": "required", "SSPI_CLIENT_WINE": "required",
        "SSPI_CLIENT_EXAMPLES": "required", "SSPI_CLIENT_DEBIAN": "required",
    }
    passed = re.compile(r"PIP_|SSPI_CLIENT_|(https?|no|all)_proxy$", re.I)
    theirs = {name: value for name, value in os.environ.items() if passed.match(name)}
    return {**theirs, **ours, "PIP_CERT": f"/{BUNDLE}", "SSL_CERT_FILE": f"/{BUNDLE}"}


def run(folder, arguments):
    """Run *arguments* in the chroot and return the exit status."""
    return subprocess.call(command(folder, arguments))


def _inside(folder, name, arguments):
    """Run a command that downloads; what it says goes to a log beside the chroot."""
    log = CACHE / f"{folder.name}.{name}.log"
    for pause in (2, 10, 0):        # mirrors have bad moments
        with log.open("ab") as output:
            status = subprocess.call(command(folder, arguments, network=True),
                                     stdin=DEVNULL, stdout=output, stderr=STDOUT)
        if status == 0:
            return
        time.sleep(pause)
    raise Missing(f"`{' '.join(arguments)[:60]}` failed in {folder}: see {log}")


# -- Small things --------------------------------------------------------------


def _try(argv, lacking, env=None):
    env = dict(env or os.environ, DEBIAN_FRONTEND="noninteractive")
    done = subprocess.run(argv, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
                          text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise Missing(f"{lacking}: {(done.stdout.splitlines() or ['no word'])[-1]}")


def _output(argv):
    return subprocess.run(argv, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, text=True,
                          check=True).stdout


@contextlib.contextmanager
def _locked(name):
    with open(str(CACHE / f"{name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path):
    try:
        return path.read_text()
    except OSError:
        return None


def _remove(folder):
    if folder.exists():             # nothing is mounted in it: see INIT
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def _say(*words):
    print("chroot.py:", *words, file=sys.stderr, flush=True)


def main(arguments):
    if not arguments or arguments[0] not in RELEASES:
        print(__doc__, file=sys.stderr)
        return 2
    release, *words = arguments
    try:
        folder = build(release)
    except Missing as missing:
        _say(missing)
        return 2
    return run(folder, words) if words else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
