"""The ABI of the module against headers that we did not write: mingw-w64's.

Everything that the module declares becomes an assertion in a C file, which the
compilers for x64 and for x86 must take. Nothing is run.
"""

import ctypes
import enum
import re
import subprocess

import pytest

import sspi_client

#: structure -> its size [bytes] on (x64, x86). ARM64 is laid out as x64.
SIZES = {
    "SecHandle": (16, 8),
    "SecBuffer": (16, 12),
    "SecBufferDesc": (16, 12),
    "TimeStamp": (8, 8),
    "SecPkgInfoW": (32, 20),
    "SEC_WINNT_AUTH_IDENTITY_W": (48, 28),
    "SEC_WINNT_AUTH_IDENTITY_EXW": (72, 44),
    "SEC_CHANNEL_BINDINGS": (32, 32),
    "SecPkgContext_Sizes": (16, 16),
    "SecPkgContext_NamesW": (8, 4),
    "SecPkgContext_SessionKey": (16, 8),
    "SecPkgContext_NegotiationInfoW": (16, 8),
    "SecPkgContext_KeyInfoW": (32, 20),
}
WIDTHS = ("x64", "x86")
COMPILERS = {"x64": "x86_64-w64-mingw32-gcc", "x86": "i686-w64-mingw32-gcc"}
HEADERS = """\
#define UNICODE
#include <stddef.h>
#include <windows.h>
#define SECURITY_WIN32
#include <security.h>
#include <winerror.h>
"""
#: A type here -> what sspi.h calls it. PVOID stands for whatever is a pointer.
C_TYPES = {
    sspi_client.ULONG: "unsigned long",
    sspi_client.PVOID: "void *",
    sspi_client.LPCWSTR: "SEC_WCHAR *",
    sspi_client.PULONG: "unsigned long *",
    sspi_client.PSecHandle: "SecHandle *",
    sspi_client.PSecBufferDesc: "SecBufferDesc *",
    sspi_client.PTimeStamp: "TimeStamp *",
    sspi_client.PPSecPkgInfoW: "SecPkgInfoW **",
}
#: The only parameters that the header declares as another pointer than we do.
OTHER_POINTERS = {("AcquireCredentialsHandleW", 5): "SEC_GET_KEY_FN"}
CONSTANTS = re.compile(
    r"SEC_[EI]_|SECPKG_|SECBUFFER_|SECURITY_NATIVE|SECQOP_|SEC_WINNT_AUTH_IDENTITY_"
)
STATUS = re.compile(r"^#define (SEC_[EI]_\w+)", re.MULTILINE)


@pytest.fixture(params=WIDTHS)
def width(request):
    return request.param


def test_table_of_sizes_is_complete():
    assert set(SIZES) == set(_structures())


def test_sizes_are_those_of_the_table(width):
    column = WIDTHS.index(width)
    for name, structure in _structures().items():
        assert ctypes.sizeof(_as_on(width, structure)) == SIZES[name][column], name


def test_structures_are_laid_out_as_in_headers(width, mingw):
    lines = []
    for name, structure in _structures().items():
        layout = _as_on(width, structure)
        lines.append(_equal(f"sizeof({name})", ctypes.sizeof(layout)))
        for field, _ in structure._fields_:
            place = getattr(layout, field)
            lines.append(_equal(f"offsetof({name}, {field})", place.offset))
            lines.append(_equal(f"sizeof((({name} *)0)->{field})", place.size))
    _compile(mingw(COMPILERS[width]), lines)


def test_constants_are_those_of_headers(width, mingw):
    constants = _constants()
    assert len(constants) > 130  # none of the kinds below was overlooked
    _compile(
        mingw(COMPILERS[width]),
        [_equal(f"(unsigned long)({n})", f"{v}ul") for n, v in constants.items()],
    )


def test_prototypes_are_those_of_headers(width, mingw):
    # Another arity, width, level of pointers or calling convention does not
    # compile. Two parameters of one type that are swapped would: test_abi.py.
    lines = []
    for name, (restype, *argtypes) in sspi_client.PROTOTYPES.items():
        assert restype is sspi_client.SECURITY_STATUS
        types = [
            OTHER_POINTERS.get((name, place), C_TYPES[argtype])
            for place, argtype in enumerate(argtypes)
        ]
        lines.append(
            f"SECURITY_STATUS (WINAPI *our_{name})({', '.join(types)}) = {name};"
        )
    lines.append(_equal("sizeof(SECURITY_STATUS)", 4))
    _compile(mingw(COMPILERS[width]), lines)


def test_every_function_is_exported_by_secur32(width, mingw, tmp_path):
    # On x86 the import library counts the bytes of the arguments: _Name@48.
    calls = [f"(void *){name}" for name in sspi_client.PROTOTYPES]
    source = [
        f"void *used[] = {{{', '.join(calls)}}};",
        "int main() { return !used[0]; }",
    ]
    output = ["-o", str(tmp_path / "used.exe"), "-lsecur32"]
    _compile(mingw(COMPILERS[width]), source, output)


def test_every_status_of_winerror_has_its_name_here(mingw):
    done = _run([mingw(COMPILERS["x64"]), "-E", "-dM", "-xc", "-"], HEADERS)
    named = set(STATUS.findall(done.stdout))
    assert len(named) > 90
    assert named - set(vars(sspi_client)) == set()


@pytest.mark.parametrize(
    "wrong",
    [
        "sizeof(SecBuffer) == 20",
        "SEC_E_LOGON_DENIED == 0",
        "offsetof(SecBuffer, pvBuffer) == 0",
    ],
    ids=["size", "constant", "offset"],
)
def test_wrong_declaration_does_not_compile(width, mingw, wrong):
    with pytest.raises(AssertionError, match="static assertion"):
        _compile(mingw(COMPILERS[width]), [f'_Static_assert({wrong}, "planted");'])


def test_wrong_prototype_does_not_compile(width, mingw):
    wrong = "SECURITY_STATUS (WINAPI *a)(SecHandle *, long) = DeleteSecurityContext;"
    with pytest.raises(AssertionError, match="incompatible pointer type"):
        _compile(mingw(COMPILERS[width]), [wrong])


def _structures():
    return {
        name: value
        for name, value in vars(sspi_client).items()
        if isinstance(value, type) and issubclass(value, ctypes.Structure)
        and value is not ctypes.Structure
    }


def _constants():
    found = {
        name: value
        for name, value in vars(sspi_client).items()
        if CONSTANTS.match(name) and isinstance(value, int)
    }
    for flags in (sspi_client.ISC_REQ, sspi_client.ISC_RET):
        assert issubclass(flags, enum.IntFlag)
        for name, member in flags.__members__.items():
            found[f"{flags.__name__}_{name}"] = int(member)
    return found


def _as_on(width, structure):
    """Return the structure as ctypes lays it out where pointers have that width."""
    size = {"x64": ctypes.c_uint64, "x86": ctypes.c_uint32}[width]
    fields = []
    for name, kind in structure._fields_:
        pointer = issubclass(kind, (ctypes.c_void_p, ctypes.c_size_t, ctypes._Pointer))
        fields.append((name, size if pointer else kind))
    return type(structure.__name__, (ctypes.Structure,), {"_fields_": fields})


def _equal(expression, value):
    return f'_Static_assert({expression} == {value}, "{value}");'


def _compile(compiler, lines, options=("-fsyntax-only",)):
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-xc", "-"]
    _run([*command, "-xnone", *options], "\n".join([HEADERS, *lines, ""]))


def _run(command, source):
    done = subprocess.run(
        command, input=source, universal_newlines=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr
    return done
