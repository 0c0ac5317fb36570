"""Run httpx and aiohttp, with their adapters, and report what came of it.

    python http_jobs.py < jobs.json        a list of jobs in, a list of reports out

For the Windows CPython on Wine, with both libraries on its path. A job is a dict:

    adapter     "httpx", "httpx async", or "aiohttp"
    origin      who gets tokens, and *url* what to get from there
    kerberos    whether Wine's Kerberos is to be used, or its NTLM: see Backend
    identity    [user, password]; none: who is logged on
    sspi        further keywords of the adapter
    method, body, times, workers, stream    "GET", None, 1, 1, False
    cafile      whom to trust in TLS
    cancel      [s] after which the request is cancelled while its first leg blocks

The report is a list of [status, page, X-Remote-User], or of the error's [kind, the
names of its classes, name of the SspiError behind it, text], one for each request.
"""

import asyncio
import ctypes
import json
import ssl
import sys
import threading

sys.modules["_wmi"] = None  # platform would ask Wine's WMI, which ends the process

import aiohttp  # noqa: E402
import aiohttp_auth  # noqa: E402
import httpx  # noqa: E402
import httpx_auth  # noqa: E402

import sspi_client  # noqa: E402

PATIENCE = 30  # [s]


class Backend:
    """Wine 8.0's secur32, made to look like Windows'.

    Its Kerberos wants a buffer of its caller instead of ISC_REQ_ALLOCATE_MEMORY; its
    NTLM refuses a first leg that is given anything, so that gets no bindings.
    """

    def __init__(self, kerberos):
        self.secur32 = sspi_client.Secur32()
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, getattr(self.secur32, name))
        self.buffers = {}
        self.held, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.InitializeSecurityContextW = self.kerberos if kerberos else self.ntlm
        self.FreeContextBuffer = self.free

    def kerberos(self, *arguments):
        arguments = list(arguments)
        arguments[3] &= ~sspi_client.ISC_REQ.ALLOCATE_MEMORY
        output = getattr(arguments[9], "_obj", arguments[9]).pBuffers[0]
        memory = ctypes.create_string_buffer(0x10000)
        self.buffers[ctypes.addressof(memory)] = memory
        output.pvBuffer, output.cbBuffer = ctypes.addressof(memory), len(memory)
        status = self.call(*arguments)
        if status & 0x80000000:  # then it left the length alone
            output.cbBuffer = 0
        return status

    def ntlm(self, *arguments):
        if arguments[1] is None:
            arguments = (*arguments[:6], None, *arguments[7:])
        return self.call(*arguments)

    def call(self, *arguments):
        self.held.set()
        self.go.wait(PATIENCE)
        return self.secur32.InitializeSecurityContextW(*arguments)

    def free(self, address):
        if self.buffers.pop(address, None) is not None:
            return sspi_client.SEC_E_OK
        return self.secur32.FreeContextBuffer(address)


def options(job):
    who = job.get("identity")
    identity = sspi_client.Identity(*who) if who else None
    return dict(job.get("sspi", {}), identity=identity)


def failure(error):
    kinds = [kind.__name__ for kind in type(error).__mro__]
    cause = getattr(error.__cause__, "name", None)
    return ["error", kinds, cause, str(error)]


def page(response):
    return [response.status_code, response.text, response.headers.get("X-Remote-User")]


def by_httpx(job, backend):
    done, left = [], [job["url"]] * job.get("times", 1)
    sspi = httpx_auth.SspiTransport(
        secur32=backend, verify=trust(job), **options(job))
    with httpx.Client(mounts={job["origin"]: sspi}, timeout=PATIENCE) as client:

        def get(url):
            method, body = job.get("method", "GET"), text(job)
            if not job.get("stream"):
                return page(client.request(method, url, content=body))
            with client.stream(method, url, content=body) as response:
                response.read()
                return page(response)

        def work():
            while left:
                try:
                    done.append(get(left.pop()))
                except httpx.HTTPError as error:
                    done.append(failure(error))

        threads = [threading.Thread(target=work) for _ in range(job.get("workers", 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return done


async def by_async_httpx(job, backend):
    sspi = httpx_auth.AsyncSspiTransport(
        secur32=backend, verify=trust(job), **options(job))
    mounts = {job["origin"]: sspi}
    async with httpx.AsyncClient(mounts=mounts, timeout=PATIENCE) as client:

        async def get(url):
            method, body = job.get("method", "GET"), text(job)
            if not job.get("stream"):
                return page(await client.request(method, url, content=body))
            async with client.stream(method, url, content=body) as response:
                await response.aread()
                return page(response)

        return await all_of(job, backend, get, httpx.HTTPError)


async def by_aiohttp(job, backend):
    sspi = aiohttp_auth.SspiConnector(
        job["origin"], secur32=backend, ssl=trust(job) or True, **options(job))
    async with aiohttp.ClientSession(connector=sspi, middlewares=[sspi]) as session:

        async def get(url):
            request = session.request(
                job.get("method", "GET"), url, data=text(job))
            async with request as answer:
                if job.get("stream"):
                    parts = [part async for part in answer.content.iter_any()]
                    body = b"".join(parts).decode()
                else:
                    body = await answer.text()
                return [answer.status, body, answer.headers.get("X-Remote-User")]

        return await all_of(job, backend, get, aiohttp.ClientError)


async def all_of(job, backend, get, errors):
    done, left = [], [job["url"]] * job.get("times", 1)

    async def work():
        while left:
            try:
                done.append(await get(left.pop()))
            except errors as error:
                done.append(failure(error))

    if "cancel" in job:
        backend.go.clear()
        task = asyncio.ensure_future(get(job["url"]))
        held = asyncio.get_running_loop().run_in_executor(
            None, backend.held.wait, PATIENCE)
        await held
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            done.append(["cancelled", not backend.go.is_set()])
        backend.go.set()
    await asyncio.gather(*(work() for _ in range(job.get("workers", 1))))
    return done


def trust(job):
    return ssl.create_default_context(cafile=job["cafile"])


def text(job):
    return job["body"].encode() if job.get("body") else None


def run(job):
    backend = Backend(job["kerberos"])
    if job["adapter"] == "httpx":
        return by_httpx(job, backend)
    ways = {"httpx async": by_async_httpx, "aiohttp": by_aiohttp}
    done = asyncio.run(ways[job["adapter"]](job, backend))
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(PATIENCE)  # a cancelled leg ends there, and closes its flow
    return done


if __name__ == "__main__":
    print(json.dumps([run(job) for job in json.load(sys.stdin)]))
