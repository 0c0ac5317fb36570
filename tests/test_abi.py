"""The binary interface, transcribed from sspi.h by hand and not from the module."""

import ast
import ctypes
import inspect

import pytest

import sspi_client

POINTER_SIZE = ctypes.sizeof(ctypes.c_void_p)

# name, size on x64, size on x86: field, offset on x64, offset on x86, width; a width
# is * for that of a pointer, 16 for 16 bits, and nothing for 32 bits.
STRUCTURES = """
SecHandle 16 8: dwLower 0 0 *, dwUpper 8 4 *
SecBuffer 16 12: cbBuffer 0 0, BufferType 4 4, pvBuffer 8 8 *
SecBufferDesc 16 12: ulVersion 0 0, cBuffers 4 4, pBuffers 8 8 *
TimeStamp 8 8: LowPart 0 0, HighPart 4 4
SecPkgInfoW 32 20: fCapabilities 0 0, wVersion 4 4 16, wRPCID 6 6 16, cbMaxToken 8 8, Name 16 12 *, Comment 24 16 *
SEC_WINNT_AUTH_IDENTITY_W 48 28: User 0 0 *, UserLength 8 4, Domain 16 8 *, DomainLength 24 12, Password 32 16 *, PasswordLength 40 20, Flags 44 24
SEC_WINNT_AUTH_IDENTITY_EXW 72 44: Version 0 0, Length 4 4, User 8 8 *, UserLength 16 12, Domain 24 16 *, DomainLength 32 20, Password 40 24 *, PasswordLength 48 28, Flags 52 32, PackageList 56 36 *, PackageListLength 64 40
SEC_CHANNEL_BINDINGS 32 32: dwInitiatorAddrType 0 0, cbInitiatorLength 4 4, dwInitiatorOffset 8 8, dwAcceptorAddrType 12 12, cbAcceptorLength 16 16, dwAcceptorOffset 20 20, cbApplicationDataLength 24 24, dwApplicationDataOffset 28 28
SecPkgContext_Sizes 16 16: cbMaxToken 0 0, cbMaxSignature 4 4, cbBlockSize 8 8, cbSecurityTrailer 12 12
SecPkgContext_StreamSizes 20 20: cbHeader 0 0, cbTrailer 4 4, cbMaximumMessage 8 8, cBuffers 12 12, cbBlockSize 16 16
SecPkgContext_NamesW 8 4: sUserName 0 0 *
SecPkgContext_NativeNamesW 16 8: sClientName 0 0 *, sServerName 8 4 *
SecPkgContext_SessionKey 16 8: SessionKeyLength 0 0, SessionKey 8 4 *
SecPkgContext_PackageInfoW 8 4: PackageInfo 0 0 *
SecPkgContext_NegotiationInfoW 16 8: PackageInfo 0 0 *, NegotiationState 8 4
SecPkgContext_Flags 4 4: Flags 0 0
SecPkgContext_KeyInfoW 32 20: sSignatureAlgorithmName 0 0 *, sEncryptAlgorithmName 8 4 *, KeySize 16 8, SignatureAlgorithm 20 12, EncryptAlgorithm 24 16
SecPkgCredentials_NamesW 8 4: sUserName 0 0 *
"""  # noqa: E501  # a structure a line, however long
REQUIRED_STRUCTURES = {
    "SecHandle", "SecBuffer", "SecBufferDesc", "SecPkgInfoW",
    "SEC_WINNT_AUTH_IDENTITY_W", "SEC_WINNT_AUTH_IDENTITY_EXW",
    "SEC_CHANNEL_BINDINGS", "SecPkgContext_Sizes", "SecPkgContext_SessionKey",
    "SecPkgContext_NegotiationInfoW", "TimeStamp",
}  # fmt: skip

# A star is a pointer; the others are 32-bit integers.
FUNCTIONS = """
AcquireCredentialsHandleW: *pszPrincipal *pszPackage fCredentialUse *pvLogonId *pAuthData *pGetKeyFn *pvGetKeyArgument *phCredential *ptsExpiry
FreeCredentialsHandle: *phCredential
InitializeSecurityContextW: *phCredential *phContext *pszTargetName fContextReq Reserved1 TargetDataRep *pInput Reserved2 *phNewContext *pOutput *pfContextAttr *ptsExpiry
CompleteAuthToken: *phContext *pToken
DeleteSecurityContext: *phContext
FreeContextBuffer: *pvContextBuffer
QueryContextAttributesW: *phContext ulAttribute *pBuffer
QueryCredentialsAttributesW: *phCredential ulAttribute *pBuffer
EnumerateSecurityPackagesW: *pcPackages *ppPackageInfo
QuerySecurityPackageInfoW: *pszPackageName *ppPackageInfo
MakeSignature: *phContext fQOP *pMessage MessageSeqNo
VerifySignature: *phContext *pMessage MessageSeqNo *pfQOP
EncryptMessage: *phContext fQOP *pMessage MessageSeqNo
DecryptMessage: *phContext *pMessage MessageSeqNo *pfQOP
"""  # noqa: E501
REQUIRED_FUNCTIONS = {
    "AcquireCredentialsHandleW", "FreeCredentialsHandle",
    "InitializeSecurityContextW", "CompleteAuthToken", "DeleteSecurityContext",
    "FreeContextBuffer", "QueryContextAttributesW", "QueryCredentialsAttributesW",
    "EnumerateSecurityPackagesW",
}  # fmt: skip

CONSTANTS = {
    "ISC_REQ_ALLOCATE_MEMORY": 0x100,
    "SECPKG_CRED_INBOUND": 1,
    "SECPKG_CRED_OUTBOUND": 2,
    "SECPKG_CRED_BOTH": 3,
    "SECPKG_CRED_AUTOLOGON_RESTRICTED": 0x10,
    "SECPKG_CRED_ATTR_NAMES": 1,
    "SECPKG_ATTR_SIZES": 0,
    "SECPKG_ATTR_NAMES": 1,
    "SECPKG_ATTR_LIFESPAN": 2,
    "SECPKG_ATTR_STREAM_SIZES": 4,
    "SECPKG_ATTR_KEY_INFO": 5,
    "SECPKG_ATTR_SESSION_KEY": 9,
    "SECPKG_ATTR_PACKAGE_INFO": 10,
    "SECPKG_ATTR_NEGOTIATION_INFO": 12,
    "SECPKG_ATTR_NATIVE_NAMES": 13,
    "SECPKG_ATTR_FLAGS": 14,
    "SECPKG_NEGOTIATION_COMPLETE": 0,
    "SECPKG_NEGOTIATION_OPTIMISTIC": 1,
    "SECPKG_NEGOTIATION_IN_PROGRESS": 2,
    "SECBUFFER_VERSION": 0,
    "SECBUFFER_EMPTY": 0,
    "SECBUFFER_DATA": 1,
    "SECBUFFER_TOKEN": 2,
    "SECBUFFER_PADDING": 9,
    "SECBUFFER_STREAM": 10,
    "SECBUFFER_CHANNEL_BINDINGS": 14,
    "SECBUFFER_READONLY": 0x80000000,
    "SECBUFFER_READONLY_WITH_CHECKSUM": 0x10000000,
    "SECURITY_NETWORK_DREP": 0,
    "SECURITY_NATIVE_DREP": 0x10,
    "SECQOP_WRAP_NO_ENCRYPT": 0x80000001,
    "SEC_WINNT_AUTH_IDENTITY_ANSI": 1,
    "SEC_WINNT_AUTH_IDENTITY_UNICODE": 2,
    "SEC_WINNT_AUTH_IDENTITY_MARSHALLED": 4,
    "SEC_WINNT_AUTH_IDENTITY_ONLY": 8,
    "SEC_WINNT_AUTH_IDENTITY_VERSION": 0x200,
}
ISC_REQ = {
    "DELEGATE": 0x1,
    "MUTUAL_AUTH": 0x2,
    "REPLAY_DETECT": 0x4,
    "SEQUENCE_DETECT": 0x8,
    "CONFIDENTIALITY": 0x10,
    "USE_SESSION_KEY": 0x20,
    "PROMPT_FOR_CREDS": 0x40,
    "USE_SUPPLIED_CREDS": 0x80,
    "ALLOCATE_MEMORY": 0x100,
    "USE_DCE_STYLE": 0x200,
    "DATAGRAM": 0x400,
    "CONNECTION": 0x800,
    "CALL_LEVEL": 0x1000,
    "FRAGMENT_SUPPLIED": 0x2000,
    "EXTENDED_ERROR": 0x4000,
    "STREAM": 0x8000,
    "INTEGRITY": 0x10000,
    "IDENTIFY": 0x20000,
    "NULL_SESSION": 0x40000,
    "MANUAL_CRED_VALIDATION": 0x80000,
    "FRAGMENT_TO_FIT": 0x200000,
    "FORWARD_CREDENTIALS": 0x400000,
    "NO_INTEGRITY": 0x800000,
    "USE_HTTP_STYLE": 0x1000000,
    "UNVERIFIED_TARGET_NAME": 0x20000000,
    "CONFIDENTIALITY_ONLY": 0x40000000,
}
ISC_RET = {
    "DELEGATE": 0x1,
    "MUTUAL_AUTH": 0x2,
    "REPLAY_DETECT": 0x4,
    "SEQUENCE_DETECT": 0x8,
    "CONFIDENTIALITY": 0x10,
    "USE_SESSION_KEY": 0x20,
    "USED_COLLECTED_CREDS": 0x40,
    "USED_SUPPLIED_CREDS": 0x80,
    "ALLOCATED_MEMORY": 0x100,
    "USED_DCE_STYLE": 0x200,
    "DATAGRAM": 0x400,
    "CONNECTION": 0x800,
    "INTERMEDIATE_RETURN": 0x1000,
    "CALL_LEVEL": 0x2000,
    "EXTENDED_ERROR": 0x4000,
    "STREAM": 0x8000,
    "INTEGRITY": 0x10000,
    "IDENTIFY": 0x20000,
    "NULL_SESSION": 0x40000,
    "MANUAL_CRED_VALIDATION": 0x80000,
    "FRAGMENT_ONLY": 0x200000,
    "FORWARD_CREDENTIALS": 0x400000,
    "USED_HTTP_STYLE": 0x1000000,
    "NO_ADDITIONAL_TOKEN": 0x2000000,
    "REAUTHENTICATION": 0x8000000,
    "CONFIDENTIALITY_ONLY": 0x40000000,
}


def lines_of(table):
    for line in table.strip().splitlines():
        head, _, rest = line.partition(": ")
        yield head.split(), rest


def transcribed_structure(name, column):
    """The size and the fields' offsets; column 0 is x64, column 1 is x86."""
    for (found, *sizes), rest in lines_of(STRUCTURES):
        if found == name:
            fields = [field.split() for field in rest.split(", ")]
            offsets = {field: int(at[column]) for field, *at in fields}
            return int(sizes[column]), offsets
    raise AssertionError(f"{name} is not transcribed here")


def transcribed_widths(name, pointer):
    for (found, *_), rest in lines_of(STRUCTURES):
        if found == name:
            widths = [field.split()[3:] for field in rest.split(", ")]
            return [{"*": pointer, "16": 2}["".join(w)] if w else 4 for w in widths]
    raise AssertionError(f"{name} is not transcribed here")


def transcribed_function(name):
    for (found,), rest in lines_of(FUNCTIONS):
        if found == name:
            return rest.split()
    raise AssertionError(f"{name} is not transcribed here")


def is_pointer(kind):
    return kind is ctypes.c_void_p or hasattr(kind, "contents")


def laid_out(structure, pointer):
    """The size and the offsets that a C compiler with such pointers gives."""
    place, largest, offsets = 0, 1, {}
    for name, kind in structure._fields_:
        wide = is_pointer(kind) or kind is ctypes.c_size_t
        width = pointer if wide else ctypes.sizeof(kind)
        place += -place % width
        offsets[name] = place
        place, largest = place + width, max(largest, width)
    return place + -place % largest, offsets


def module_tree():
    with open(sspi_client.__file__, encoding="utf-8") as source:
        return ast.parse(source.read())


def abi_constants():
    """The names of the integers that section 10 declares."""
    with open(sspi_client.__file__, encoding="utf-8") as file:
        section = file.read().partition("\n# -- 10.")[2].partition("\n# -- 11.")[0]
    names = [
        name.id
        for node in ast.parse(section.partition("\n")[2]).body
        if isinstance(node, ast.Assign)
        for target in node.targets  # a name, or a tuple of names
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
        and not name.id.startswith(("_", "SEC_E_", "SEC_I_"))
    ]
    return [name for name in names if isinstance(getattr(sspi_client, name), int)]


STRUCTURE_NAMES = sorted(
    name
    for name, thing in vars(sspi_client).items()
    if isinstance(thing, type)
    and issubclass(thing, ctypes.Structure)
    and thing is not ctypes.Structure
)


def test_structures_are_all_there():
    assert REQUIRED_STRUCTURES <= set(STRUCTURE_NAMES)


@pytest.mark.parametrize("name", STRUCTURE_NAMES)
def test_structure_is_that_of_x_eighty_six(name):
    declared = laid_out(getattr(sspi_client, name), 4)
    assert declared == transcribed_structure(name, 1)


@pytest.mark.skipif(POINTER_SIZE != 8, reason="this Python has 32 bits")
@pytest.mark.parametrize("name", STRUCTURE_NAMES)
def test_structure_is_that_of_x_sixty_four(name):
    structure = getattr(sspi_client, name)
    fields = [field for field, _ in structure._fields_]
    offsets = {field: getattr(structure, field).offset for field in fields}
    measured = (ctypes.sizeof(structure), offsets)
    assert measured == transcribed_structure(name, 0)


@pytest.mark.parametrize("name", STRUCTURE_NAMES)
def test_structure_has_fields_of_the_right_width(name):
    kinds = [kind for _, kind in getattr(sspi_client, name)._fields_]
    widths = [ctypes.sizeof(kind) for kind in kinds]
    assert widths == transcribed_widths(name, POINTER_SIZE)


@pytest.mark.parametrize("name", STRUCTURE_NAMES)
def test_structure_is_laid_out_here_as_a_compiler_does(name):
    # What makes the x86 numbers believable: the same sum, for this machine.
    structure = getattr(sspi_client, name)
    assert laid_out(structure, POINTER_SIZE)[0] == ctypes.sizeof(structure)


@pytest.mark.parametrize(
    "name, size, signed",
    [
        ("ULONG", 4, False),
        ("USHORT", 2, False),
        ("SEC_WCHAR", 2, False),
        ("ULONG_PTR", POINTER_SIZE, False),
        ("SECURITY_STATUS", 4, False),
    ],
    ids=["ulong", "ushort", "sec-wchar", "ulong-ptr", "security-status"],
)
def test_type_has_its_width_and_sign(name, size, signed):
    kind = getattr(sspi_client, name)
    assert (ctypes.sizeof(kind), kind(-1).value < 0) == (size, signed)


def test_time_stamp_joins_its_halves():
    stamp = sspi_client.TimeStamp(0xFFFFFFFF, 0x7FFFFFFF)
    assert stamp.value == 0x7FFFFFFFFFFFFFFF


def test_functions_are_all_there():
    assert REQUIRED_FUNCTIONS <= set(sspi_client.PROTOTYPES)


@pytest.mark.parametrize("name", sorted(sspi_client.PROTOTYPES))
def test_function_has_its_parameters(name):
    stub = getattr(sspi_client.Secur32, name)
    _self, *parameters = inspect.signature(stub).parameters
    assert parameters == [p.lstrip("*") for p in transcribed_function(name)]


@pytest.mark.parametrize("name", sorted(sspi_client.PROTOTYPES))
def test_function_passes_pointers_and_integers(name):
    _, *argtypes = sspi_client.PROTOTYPES[name]
    kinds = ["*" if is_pointer(kind) else ctypes.sizeof(kind) for kind in argtypes]
    expected = ["*" if p[0] == "*" else 4 for p in transcribed_function(name)]
    assert kinds == expected


@pytest.mark.parametrize("name", sorted(sspi_client.PROTOTYPES))
def test_function_returns_a_status(name):
    restype = sspi_client.PROTOTYPES[name][0]
    assert restype is sspi_client.SECURITY_STATUS


@pytest.mark.parametrize(
    "parameter, size",
    [
        pytest.param("phCredential", 2 * POINTER_SIZE, id="handle"),
        pytest.param("pszTargetName", 2, id="text"),
        pytest.param("pInput", 8 + POINTER_SIZE, id="descriptor"),
        pytest.param("pfContextAttr", 4, id="attributes"),
        pytest.param("ptsExpiry", 8, id="expiry"),
    ],
)
def test_pointer_points_at_the_right_size(parameter, size):
    signature = inspect.signature(sspi_client.Secur32.InitializeSecurityContextW)
    pointer = getattr(sspi_client, signature.parameters[parameter].annotation)
    assert ctypes.sizeof(pointer._type_) == size


def test_constants_are_found():
    assert "SECPKG_CRED_OUTBOUND" in abi_constants()


@pytest.mark.parametrize("name", abi_constants())
def test_constant_is_that_of_the_sdk(name):
    assert getattr(sspi_client, name) == CONSTANTS[name]


@pytest.mark.parametrize(
    "flags, sdk",
    [(sspi_client.ISC_REQ, ISC_REQ), (sspi_client.ISC_RET, ISC_RET)],
    ids=["asked", "granted"],
)
def test_flags_are_those_of_the_sdk(flags, sdk):
    declared = {name: int(flag) for name, flag in flags.__members__.items()}
    assert declared == {name: sdk.get(name) for name in declared}


def test_invalid_handle_is_that_of_the_sdk():
    handle = sspi_client._no_handle()  # sspi.h, SecInvalidateHandle
    all_ones = 2 ** (8 * POINTER_SIZE) - 1
    assert (handle.dwLower, handle.dwUpper) == (all_ones, all_ones)


# What the layout tests rest on


@pytest.mark.parametrize("name", ["wintypes", "c_wchar", "c_wchar_p", "windll"])
def test_module_never_uses(name):
    used = {
        getattr(node, field)
        for node in ast.walk(module_tree())
        for field in ("id", "attr", "name", "module")
        if isinstance(getattr(node, field, None), str)
    }
    assert not [word for word in used if name in word.split(".")]


@pytest.mark.parametrize("name", ["c_long", "c_ulong", "c_int", "c_uint", "c_short"])
def test_module_uses_no_type_whose_width_depends_on_the_platform(name):
    imported = {
        alias.name
        for node in ast.walk(module_tree())
        if isinstance(node, ast.ImportFrom) and node.module == "ctypes"
        for alias in node.names
    }
    assert name not in imported


# How the DLL is bound


@pytest.fixture
def dll(mocker):
    """Where secur32.dll would come from; `dll.return_value` is the DLL."""
    mocker.patch.object(sspi_client.sys, "platform", "win32")
    loaded = {name: mocker.Mock() for name in sspi_client.PROTOTYPES}
    return mocker.patch.object(
        sspi_client.ctypes, "WinDLL", create=True, return_value=loaded
    )


def test_dll_is_loaded_from_the_system_folder_alone(dll):
    sspi_client.Secur32()
    dll.assert_called_once_with("secur32.dll", winmode=0x800)


@pytest.mark.parametrize("name", sorted(sspi_client.PROTOTYPES))
def test_dll_function_is_bound_with_its_types(dll, name):
    function = getattr(sspi_client.Secur32(), name)
    restype, *argtypes = sspi_client.PROTOTYPES[name]
    assert (function.restype, list(function.argtypes)) == (restype, argtypes)


def test_dll_functions_are_the_dlls_own(dll):
    secur32 = sspi_client.Secur32()
    loaded = dll.return_value
    assert secur32.FreeContextBuffer is loaded["FreeContextBuffer"]
    loaded.clear()
    assert secur32.FreeContextBuffer is secur32.FreeContextBuffer  # bound once


@pytest.mark.parametrize(
    "name", ["FreeContextBuffer", "FreeCredentialsHandle", "DeleteSecurityContext"]
)
def test_dll_that_could_not_give_back_is_not_used(dll, name):
    del dll.return_value[name]
    with pytest.raises(LookupError):
        sspi_client.Secur32()


def test_dll_is_asked_for_nothing_but_the_prototypes(dll):
    dll.return_value["AcceptSecurityContext"] = print
    assert not hasattr(sspi_client.Secur32(), "AcceptSecurityContext")
