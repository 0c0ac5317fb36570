/* What bench.py measures us against: the same calls of secur32 in a loop of C.
 *
 *   x86_64-w64-mingw32-gcc -O2 -shared -o bench_loop.dll bench_loop.c \
 *       -lsecur32 -lws2_32
 *
 * Each function returns the time that it took [s], or a negative status. It does
 * what the module does for the same job: ISC_REQ_ALLOCATE_MEMORY, a token that is
 * copied, every handle and buffer given back.
 */
#define SECURITY_WIN32
#include <winsock2.h>
#include <windows.h>
#include <security.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST 12000 /* [bytes] of a token, as Wine has it */

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
    char room[LONGEST];
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

/* The way to gss_acceptor.py, for us, for the loop and for the peers alike: a
 * connection for each handshake, each token behind its length (4 bytes, little). */
__declspec(dllexport) SOCKET dial(USHORT port)
{
    struct sockaddr_in place = {0};
    WSADATA facts;
    SOCKET link;
    place.sin_family = AF_INET;
    place.sin_port = htons(port);
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    WSAStartup(MAKEWORD(2, 2), &facts); /* it counts; the process's end cleans up */
    link = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    if (connect(link, (struct sockaddr *)&place, sizeof(place))) {
        closesocket(link);
        return INVALID_SOCKET;
    }
    return link;
}

__declspec(dllexport) void hang_up(SOCKET link)
{
    closesocket(link);
}

static int receive(SOCKET link, char *place, int length)
{
    int got = 0, more;
    while (got < length) {
        if ((more = recv(link, place + got, length - got, 0)) <= 0)
            return 0;
        got += more;
    }
    return 1;
}

/* Send *token* and return the length of the reply in *room*, of LONGEST bytes. */
__declspec(dllexport) int exchange(SOCKET link, const void *token, ULONG length,
                                   void *room)
{
    char frame[4 + LONGEST];
    ULONG due;
    if (length > LONGEST)
        return -1;
    memcpy(frame, &length, 4);
    memcpy(frame + 4, token, length);
    if (send(link, frame, 4 + length, 0) != (int)(4 + length)
        || !receive(link, (char *)&due, 4) || due > LONGEST
        || !receive(link, room, due))
        return -1;
    return due;
}

/* One leg; the token is copied to the heap, as Python does, and is the caller's. */
static SECURITY_STATUS leg(CredHandle *credential, CtxtHandle *context, int first,
                           WCHAR *target, ULONG flags, void *reply, ULONG length,
                           void **token, ULONG *written)
{
    SecBuffer in = {length, SECBUFFER_TOKEN, reply}, out = {0, SECBUFFER_TOKEN, NULL};
    SecBufferDesc input = {SECBUFFER_VERSION, 1, &in};
    SecBufferDesc output = {SECBUFFER_VERSION, 1, &out};
    ULONG attributes = 0;
    TimeStamp expiry;
    SECURITY_STATUS status = initialize(
        credential, first ? NULL : context, target, flags | ISC_REQ_ALLOCATE_MEMORY,
        0, SECURITY_NATIVE_DREP, first ? NULL : &input, 0, context, &output,
        &attributes, &expiry);
    *token = NULL;
    *written = out.cbBuffer;
    if (out.pvBuffer) {
        *token = memcpy(malloc(out.cbBuffer + 1), out.pvBuffer, out.cbBuffer);
        give_back(out.pvBuffer);
    }
    return status;
}

/* The legs of one handshake: with the acceptor on *port*, or with *reply* played
 * back, or with neither the first leg alone. */
static SECURITY_STATUS legs(CredHandle *credential, CtxtHandle *context,
                            WCHAR *target, ULONG flags, void *reply, ULONG length,
                            USHORT port)
{
    char room[LONGEST];
    void *token;
    ULONG written;
    SOCKET link = port ? dial(port) : INVALID_SOCKET;
    SECURITY_STATUS status = leg(credential, context, 1, target, flags, NULL, 0,
                                 &token, &written);
    while (status == SEC_I_CONTINUE_NEEDED && (port || reply)) {
        int got = length;
        if (port) {
            got = exchange(link, token, written, room);
            reply = room;
        }
        free(token);
        token = NULL;
        status = got < 0 ? SEC_E_INTERNAL_ERROR
                         : leg(credential, context, 0, target, flags, reply, got,
                               &token, &written);
    }
    free(token);
    if (port)
        hang_up(link);
    return status;
}

/* So many handshakes, each with a credential of its own or all with one. */
__declspec(dllexport) double handshakes(
    WCHAR *package, WCHAR *target, SEC_WINNT_AUTH_IDENTITY_W *identity, ULONG flags,
    void *reply, ULONG length, USHORT port, int shared, int times)
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
        if ((status = legs(&credential, &context, target, flags, reply, length,
                           port)) < 0)
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
                                    ULONG flags, void *reply, ULONG length)
{
    WCHAR package[] = L"NTLM";
    SECURITY_STATUS status = acquire(package, identity, &ntlm_credential);
    if (status >= 0)
        status = legs(&ntlm_credential, &ntlm, target, flags, reply, length, 0);
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
