/* What bench.py measures us against: the same calls of secur32 in a loop of C.
 *
 *   x86_64-w64-mingw32-gcc -O2 -shared -o bench_loop.dll bench_loop.c -lsecur32
 *
 * Each function returns the time that it took [s], or a negative status. It does
 * what the module does for the same job: ISC_REQ_ALLOCATE_MEMORY, a token that is
 * copied, every handle and buffer given back.
 */
#define SECURITY_WIN32
#include <windows.h>
#include <security.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS (ISC_REQ_REPLAY_DETECT | ISC_REQ_SEQUENCE_DETECT \
    | ISC_REQ_CONFIDENTIALITY | ISC_REQ_INTEGRITY | ISC_REQ_ALLOCATE_MEMORY)

static double now(void)
{
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (double)count.QuadPart / frequency.QuadPart;
}

static SECURITY_STATUS acquire(WCHAR *package, SEC_WINNT_AUTH_IDENTITY_W *identity,
                               CredHandle *credential)
{
    TimeStamp expiry;
    return AcquireCredentialsHandleW(NULL, package, SECPKG_CRED_OUTBOUND, NULL,
                                     identity, NULL, NULL, credential, &expiry);
}

/* Wine 8.0's Kerberos does not know ISC_REQ_ALLOCATE_MEMORY: it writes to a buffer
 * of the caller or nowhere. These two make up for it, for us and for the loop alike;
 * bench.py sets on_wine. */
__declspec(dllexport) int on_wine;

__declspec(dllexport) SECURITY_STATUS WINAPI initialize(
    CredHandle *credential, CtxtHandle *context, WCHAR *target, ULONG flags,
    ULONG reserved1, ULONG representation, SecBufferDesc *input, ULONG reserved2,
    CtxtHandle *made, SecBufferDesc *output, ULONG *attributes, TimeStamp *expiry)
{
    char room[12000]; /* what Wine calls the longest token */
    SecBuffer *token = output->pBuffers;
    SECURITY_STATUS status;
    if (on_wine) {
        flags &= ~ISC_REQ_ALLOCATE_MEMORY;
        token->pvBuffer = room;
        token->cbBuffer = sizeof(room);
    }
    status = InitializeSecurityContextW(
        credential, context, target, flags, reserved1, representation, input,
        reserved2, made, output, attributes, expiry);
    if (on_wine) {
        token->pvBuffer = NULL;
        if (status < 0)
            token->cbBuffer = 0;
        else
            token->pvBuffer = memcpy(malloc(token->cbBuffer + 1), room,
                                     token->cbBuffer);
    }
    return status;
}

__declspec(dllexport) SECURITY_STATUS WINAPI give_back(void *memory)
{
    if (!on_wine)
        return FreeContextBuffer(memory);
    free(memory);
    return SEC_E_OK;
}

/* One leg; the token is copied to the heap and freed there, as Python does. */
static SECURITY_STATUS leg(CredHandle *credential, CtxtHandle *context, int first,
                           WCHAR *target, void *reply, ULONG length)
{
    SecBuffer in = {length, SECBUFFER_TOKEN, reply}, out = {0, SECBUFFER_TOKEN, NULL};
    SecBufferDesc input = {SECBUFFER_VERSION, 1, &in};
    SecBufferDesc output = {SECBUFFER_VERSION, 1, &out};
    ULONG attributes = 0;
    TimeStamp expiry;
    SECURITY_STATUS status = initialize(
        credential, first ? NULL : context, target, FLAGS, 0, SECURITY_NATIVE_DREP,
        first ? NULL : &input, 0, context, &output, &attributes, &expiry);
    if (out.pvBuffer) {
        void *copy = malloc(out.cbBuffer);
        memcpy(copy, out.pvBuffer, out.cbBuffer);
        give_back(out.pvBuffer);
        free(copy);
    }
    return status;
}

/* Handshakes of one leg, or of two with *reply*; with a credential each or one. */
__declspec(dllexport) double handshakes(
    WCHAR *package, WCHAR *target, SEC_WINNT_AUTH_IDENTITY_W *identity,
    void *reply, ULONG length, int shared, int times)
{
    CredHandle credential;
    CtxtHandle context;
    SECURITY_STATUS status = SEC_E_OK;
    double start;
    if (shared && (status = acquire(package, identity, &credential)) < 0)
        return status;
    start = now();
    while (times--) {
        if (!shared && (status = acquire(package, identity, &credential)) < 0)
            return status;
        if ((status = leg(&credential, &context, 1, target, NULL, 0)) < 0)
            return status;
        if (reply)
            status = leg(&credential, &context, 0, target, reply, length);
        if (status < 0)
            return status;
        DeleteSecurityContext(&context);
        if (!shared)
            FreeCredentialsHandle(&credential);
    }
    start = now() - start;
    if (shared)
        FreeCredentialsHandle(&credential);
    return start;
}

static CredHandle ntlm_credential;
static CtxtHandle ntlm;
static ULONG sequence;

/* Establish the NTLM context that protect() uses. */
__declspec(dllexport) int establish(WCHAR *target, SEC_WINNT_AUTH_IDENTITY_W *identity,
                                    void *reply, ULONG length)
{
    WCHAR package[] = L"NTLM";
    SECURITY_STATUS status = acquire(package, identity, &ntlm_credential);
    if (status >= 0)
        status = leg(&ntlm_credential, &ntlm, 1, target, NULL, 0);
    if (status >= 0)
        status = leg(&ntlm_credential, &ntlm, 0, target, reply, length);
    return status;
}

/* Sign or encrypt *data*: copied into a fresh block, as the module must do, and
 * with *kept* the result is copied once more, into what the caller would keep. */
__declspec(dllexport) double protect(const char *data, ULONG length, int encrypt,
                                     int kept, int times)
{
    double start = now();
    while (times--) {
        char *block = malloc(16 + length), *copy;
        SecBuffer buffers[2] = {{16, SECBUFFER_TOKEN, block},
                                {length, SECBUFFER_DATA, block + 16}};
        SecBufferDesc message = {SECBUFFER_VERSION, 2, buffers};
        SECURITY_STATUS status;
        memcpy(block + 16, data, length);
        status = encrypt ? EncryptMessage(&ntlm, 0, &message, sequence++)
                         : MakeSignature(&ntlm, 0, &message, sequence++);
        if (status < 0)
            return status;
        if (kept) {
            copy = malloc(16 + length);
            memcpy(copy, block, encrypt ? 16 + length : 16);
            free(copy);
        }
        free(block);
    }
    return now() - start;
}
