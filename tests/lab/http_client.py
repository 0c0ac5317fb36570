"""Ask Apache through the HTTP adapters, with the Windows CPython on Wine.

    python http_client.py < jobs.json        a list of jobs in, a list of reports out

A job is a dict:

    adapter     "urllib", "requests"
    url, times  what is asked, how often in one session; method, body
    kerberos    True: who is logged on, by Wine's Kerberos; else NTLM
    identity    [user, password, domain]
    require     ISC_RET bits
    threads     so many at a time, in one session
    cafile      whom to trust over https

The report is a list of [status, X-Remote-User, page] or, where an error was raised,
[the error's class, the status of the SspiError behind it].
"""

import json
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

import client

import sspi_client


class NoInputFirst:
    """Wine's NTLM refuses its first leg if it is given anything, bindings too."""

    def __init__(self, secur32):
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, getattr(secur32, name))

        def initialize(*arguments):
            if arguments[1] is None:
                arguments = (*arguments[:6], None, *arguments[7:])
            return secur32.InitializeSecurityContextW(*arguments)

        self.InitializeSecurityContextW = initialize


def backend(job):
    secur32 = sspi_client.Secur32()
    wine = client.CallersBuffer if job.get("kerberos") else NoInputFirst
    return wine(secur32)


def keywords(job):
    who = job.get("identity")
    return {
        "identity": sspi_client.Identity(*who) if who else None,
        "require": job.get("require", 0),
        "secur32": backend(job),
    }


def origin(job):
    return "/".join(job["url"].split("/")[:3])


class Urllib:
    def __init__(self, job):
        import urllib.error
        import urllib.request

        import urllib_auth

        trust = ssl.create_default_context(cafile=job["cafile"])
        handler = urllib_auth.SspiHandler(origin(job), context=trust, **keywords(job))
        self.library = urllib
        self.web = urllib.request.build_opener(handler)

    def ask(self, job, body):
        method = job.get("method", "GET")
        request = self.library.request.Request(job["url"], body, method=method)
        try:
            answer = self.web.open(request, timeout=client.PATIENCE)
        except self.library.error.HTTPError as error:
            answer = error
        with answer:
            user, page = answer.headers["X-Remote-User"], answer.read().decode()
            return [answer.code, user, page]

    def close(self):
        self.web.close()


class Requests:
    def __init__(self, job):
        import requests
        import requests_auth

        self.web = requests.Session()
        self.web.verify = job["cafile"]
        adapter = requests_auth.SspiAdapter(**keywords(job))
        self.web.mount(origin(job) + "/", adapter)

    def ask(self, job, body):
        answer = self.web.request(
            job.get("method", "GET"), job["url"], data=body, timeout=client.PATIENCE
        )
        return [answer.status_code, answer.headers.get("X-Remote-User"), answer.text]

    def close(self):
        self.web.close()


ADAPTERS = {"urllib": Urllib, "requests": Requests}


def run(job):
    web = ADAPTERS[job["adapter"]](job)
    body = job["body"].encode() if "body" in job else None

    def once(_):
        try:
            return web.ask(job, body)
        except Exception as error:
            return [type(error).__name__, getattr(error.__cause__, "name", str(error))]

    try:
        with ThreadPoolExecutor(job.get("threads", 1)) as pool:
            return list(pool.map(once, range(job.get("times", 1))))
    finally:
        web.close()


if __name__ == "__main__":
    # Without _wmi, platform does not ask Wine's WMI, which ends the process.
    sys.modules["_wmi"] = None  # type: ignore[assignment]
    print(json.dumps([run(job) for job in json.load(sys.stdin)]))
