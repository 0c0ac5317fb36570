"""Windows CPython and the Windows compilers, for the tests that need them.

Without them a test is skipped and says so, unless SSPI_CLIENT_WINE=required is
set: then it fails, so that a run which should have had them cannot pass without.
"""

import os
import shutil

import pytest
import windows

MADE = "not made yet: python tests/wine/windows.py --setup-only (downloads, 760 MB)"


@pytest.fixture(params=windows.DEFAULT)
def windows_python(request):
    """A Windows CPython; the oldest and the newest in turn."""
    version = request.param
    folders = (windows.PREFIX, windows.CACHE / f"python-{version}")
    # A test run must not download and build all that unless it was asked to.
    if not _required() and not all((f / windows.STAMP).exists() for f in folders):
        _give_up(f"Windows CPython {version} is {MADE}")
    try:
        return windows.python(version)
    except windows.Missing as missing:
        return _give_up(str(missing))


@pytest.fixture
def mingw():
    """A function that finds a compiler by its name."""

    def find(name):
        path = shutil.which(name)
        if not path:
            _give_up(f"{name} not found; see --install of tests/wine/windows.py")
        return path

    return find


def _give_up(reason):
    if _required():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _required():
    return os.environ.get("SSPI_CLIENT_WINE") == "required"
