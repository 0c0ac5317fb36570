"""Measure the client beside its peers and beside C: python tests/bench.py

    python tests/bench.py --quick          # under a minute
    python tests/bench.py --json FILE --svg FILE

On Linux: handshakes of the fake beside pyspnego's NTLM in Python, if that is
installed. On Wine, or on Windows with --here: the DLL, beside pywin32, sspilib,
pyspnego, winkerberos (on Wine fetched from the package index, once), and beside
bench_loop.c where the mingw compiler is. Kerberos needs the lab's packages and
root (lab/servers.py); what is missing is left out with one line that says so.

All contenders take turns in one run, round after round. The table shows medians,
and the median of the ratios of each round, so that a busy machine disturbs both
sides alike. Ratios are ours to theirs: below 1 we are faster.

A first leg, and NTLM's handshake, has the client alone in it: NTLM's CHALLENGE is
FakeServer's and played back, and Kerberos without mutual authentication needs no
answer. Kerberos' handshake is mutual, over a connection of its own to an acceptor
of MIT's library (lab/gss_acceptor.py), and that is timed with it: all contenders
reach it through the same few lines of C.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "tests"
PEERS = ("pywin32", "sspilib", "pyspnego", "winkerberos")
VERSION = "3.13"  # of the Windows CPython
TARGET = "HTTP/localhost"
KDC_DELAY = 0.2  # [s]
ONE_LEG = 0x0001001C  # DEFAULT_FLAGS without MUTUAL_AUTH: Kerberos in one leg
MUTUAL = 0x0001001E  # DEFAULT_FLAGS
PASSWORD = "Secret123!"
OURS = "sspi_client"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    parser.add_argument("--svg", metavar="FILE", help="draw a chart there")
    parser.add_argument("--here", action="store_true", help="on Windows: this Python")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(worker(**json.loads(options.worker))))
        return 0
    rows = Rows()
    rounds = 5 if options.quick else 21
    fake_handshakes(rows, rounds)
    with contextlib.ExitStack() as stack:
        try:
            run = on_windows() if options.here else on_wine(stack, rows)
        except Lacking as lacking:
            rows.note(str(lacking))
        else:
            measure_windows(rows, run, stack, options.quick)
    rows.show()
    if options.json:
        Path(options.json).write_text(json.dumps(rows.summary(), indent=1) + "\n")
    if options.svg:
        Path(options.svg).write_text(chart(rows.summary()), encoding="utf-8")
    return 0


class Lacking(Exception):
    """Something is not there; one line."""


# -- The figures ---------------------------------------------------------------


class Rows:
    """measurement -> unit, and contender -> its figures, round by round."""

    def __init__(self):
        self.figures, self.units, self.notes = {}, {}, []

    def note(self, text):
        self.notes.append(" ".join(text.split())[:200])

    def add(self, name, unit, times):
        """*times*: contender -> figures in *unit*, those of one round in one place."""
        for contender, found in times.items():
            if isinstance(found, str):
                self.note(f"{name}, {contender}: {found}")
            elif found:
                self.units[name] = unit
                self.figures.setdefault(name, {})[contender] = found

    def summary(self):
        rows = []
        for name, contenders in self.figures.items():
            ours = contenders.get(OURS, [])
            for contender, found in contenders.items():
                ratios = [a / b for a, b in zip(ours, found) if b]
                rows.append({
                    "measurement": name,
                    "contender": contender,
                    "unit": self.units[name],
                    "median": statistics.median(found),
                    "ratio": statistics.median(ratios) if ratios else None,
                    "difference": statistics.median(a - b for a, b in zip(ours, found))
                    if ours else None,
                    "rounds": len(found),
                })  # fmt: skip
        return {"rows": rows, "notes": self.notes}

    def show(self):
        print(f"{'':<36}{'':<14}{'median':>12}        {'ours/theirs':>12}")
        before = None
        for row in self.summary()["rows"]:
            name = row["measurement"]
            ratio = "" if row["contender"] == OURS else f"{row['ratio'] or 0:.3f}"
            print(
                f"{name if name != before else '':<36}{row['contender']:<14}"
                f"{row['median']:>12.2f} {row['unit']:<7}{ratio:>12}"
            )
            before = name
        for note in self.notes:
            print(f"note: {note}")


# -- The fake, on any machine --------------------------------------------------


def fake_handshakes(rows, rounds):
    sys.path.insert(0, str(ROOT))
    import sspi_client

    domain = sspi_client.FakeDomain("CORP", {"alice": PASSWORD})
    fake = sspi_client.FakeSecur32(domain, logon="alice")
    credential = sspi_client.Credential(package="NTLM", secur32=fake)

    def ours():
        server = sspi_client.FakeServer(domain)
        sspi_client.drive(credential.authenticate("HTTP/web"), server.accept).close()

    contenders = {OURS: repeated(ours)}
    with tempfile.TemporaryDirectory() as folder:
        users = Path(folder) / "users"
        users.write_text(f"CORP:alice:{PASSWORD}\n")
        os.environ["NTLM_USER_FILE"] = str(users)
        try:
            import spnego

            options = spnego.NegotiateOptions.use_ntlm  # the one in Python
        except ImportError as lacking:
            rows.note(f"fake handshakes: {lacking}")
        else:

            def theirs():
                client = spnego.client(
                    "CORP\\alice", PASSWORD, hostname="web", service="HTTP",
                    protocol="ntlm", options=options,
                )  # fmt: skip
                server = spnego.server(protocol="ntlm", options=options)
                challenge = server.step(client.step())
                server.step(client.step(challenge))
                if not (client.complete and server.complete):
                    raise AssertionError("no handshake")

            contenders["pyspnego"] = repeated(theirs)
        times = in_turns(contenders, rounds, 20)
    credential.close()
    fake.assert_clean()
    rows.add("NTLMv2 handshake, both sides", "ms", scaled(times, 1e3))


def repeated(job):
    """Return a contender: a function of how many times, that returns the time [s]."""

    def run(times):
        start = time.perf_counter()
        for _ in range(times):
            job()
        return time.perf_counter() - start

    return run


def in_turns(contenders, rounds, times):
    """Return contender -> [s] for one job, round by round."""
    found = {}
    for name, run in contenders.items():
        try:
            run(1)  # warm; and whoever cannot do it is out
            found[name] = []
        except Exception as problem:
            found[name] = f"{type(problem).__name__}: {problem}"
    names = [name for name in found if isinstance(found[name], list)]
    for number in range(rounds if names else 0):
        at = number // 2 % len(names)
        # There and back again, so that nobody always comes behind the same one.
        for name in (names[at:] + names[:at])[:: -1 if number % 2 else 1]:
            found[name].append(contenders[name](times) / times)
    return found


def scaled(times, factor):
    return {
        name: found if isinstance(found, str) else [factor * each for each in found]
        for name, found in times.items()
    }


# -- Windows, from outside -----------------------------------------------------


def on_windows():
    if sys.platform != "win32":
        raise Lacking("--here is for Windows")

    def run(arguments, env=None):
        done = subprocess.run(
            [sys.executable, *arguments], env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    run.script, run.loop, run.path = str(Path(__file__)), None, [str(ROOT)]
    return run


def on_wine(stack, rows):
    """Return run(arguments, env) -> (output, errors) for the Windows CPython."""
    if sys.platform == "win32":
        raise Lacking("on Windows, --here measures")
    sys.path[:0] = [str(HERE / "wine"), str(HERE / "lab")]
    import windows

    try:
        python = windows.python(VERSION)
    except windows.Missing as missing:
        raise Lacking(str(missing)) from None
    peers = windows.CACHE / f"peers-{VERSION}"
    if not (peers / "complete").exists():
        shutil.rmtree(str(peers), ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target",
                   str(peers), "--platform", "win_amd64", "--python-version", VERSION,
                   "--only-binary=:all:", *PEERS]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            # Its installer makes a .pth file see to this; PYTHONPATH does not.
            for library in (peers / "pywin32_system32").glob("*.dll"):
                shutil.copy(str(library), str(peers / "win32"))
            compiled = windows.windows_path(peers)
            python.run(["-m", "compileall", "-q", compiled], timeout=300)
            (peers / "complete").write_text("")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    shutil.copy(str(ROOT / "sspi_client.py"), str(folder))
    python.run(["-m", "compileall", "-q", windows.windows_path(folder)])
    path = [folder, peers, peers / "win32", peers / "win32" / "lib"]
    path = [windows.windows_path(each) for each in path]

    def run(arguments, env=None):
        env = {"PYTHONPATH": ";".join(path), **(env or {})}
        done = python.run(arguments, env=env, timeout=300)
        return done.stdout, done.stderr

    rows.note(f"on {windows._wine_version()}, CPython {VERSION}, peers: " + ", ".join(
        sorted(found.name[:-10] for found in peers.glob("*.dist-info"))))  # fmt: skip
    run.script, run.loop, run.path = windows.windows_path(__file__), None, path
    compiler = shutil.which("x86_64-w64-mingw32-gcc")
    if compiler:
        loop = folder / "bench_loop.dll"
        source = str(HERE / "bench_loop.c")
        command = [compiler, "-O2", "-shared", "-o", str(loop), source, "-lsecur32",
                   "-lws2_32"]  # fmt: skip
        subprocess.run(command, check=True)
        run.loop = windows.windows_path(loop)
    return run


def measure_windows(rows, run, stack, quick):
    def work(task, env=None, **facts):
        words = json.dumps({"task": task, "loop": run.loop, **facts})
        output, errors = run([run.script, "--worker", words], env)
        try:
            return json.loads(output.splitlines()[-1])
        except (IndexError, ValueError):
            rows.note(f"{task}: {errors.strip().splitlines()[-1:]}")
            return {}

    if run.loop is None:
        rows.note("no mingw compiler, so no loop in C")
    rounds = 5 if quick else 21
    for name, first in (("NTLM first leg", True), ("NTLM handshake", False)):
        found = work("ntlm", rounds=2 * rounds, times=4, first=first)
        rows.add(name, "ms", scaled(found, 1e3))
    for name, unit, scale, facts in (
        ("sign 32 bytes", "us", 1e6, {"size": 32, "sign": True, "times": 500}),
        ("seal 64 KiB", "us", 1e6, {"size": 65536, "times": 40}),
        ("seal 1 MiB", "ms", 1e3, {"size": 2**20, "times": 4}),
    ):
        rows.add(name, unit, scaled(work("protect", rounds=2 * rounds, **facts), scale))
    try:
        realm, folder = start_realm(stack)
    except Lacking as lacking:
        rows.note(f"no Kerberos: {lacking}")
        return
    import servers

    env = servers.kinit(realm, "alice", folder / "ccache")
    env = {name: env[name] for name in ("KRB5_CONFIG", "KRB5CCNAME")}
    work("kerberos", env, rounds=1, times=1)  # the ticket for TARGET
    times = 10 if quick else 40
    found = work("kerberos", env, rounds=2 * rounds, times=times)
    rows.add("Kerberos first leg", "us", scaled(found, 1e6))
    found = work("leg", env, rounds=2 * rounds, times=times)
    rows.add("Kerberos leg, shared credential", "us", scaled(found, 1e6))
    port = servers.free_port()
    with servers.acceptor(folder / "acceptor", realm, port, "krb5"):
        found = work("kerberos", env, rounds=2 * rounds, times=times, port=port)
    rows.add("Kerberos handshake", "us", scaled(found, 1e6))
    start_up(rows, run, env, 3 if quick else 11)
    count = 100 if quick else 1000
    memory = {}
    for peer in (OURS, *PEERS):
        found = work("memory", env, peer=peer, times=count)
        if "error" in found:
            rows.note(f"memory, {peer}: {found['error']}")
        elif found:
            memory[peer] = [found["growth"] / 1024]
            size = {peer: [found["working_set"] / 2**20]}
            rows.add(f"working set after {count} handshakes", "MiB", size)
    rows.add(f"growth of it over {count} handshakes", "KiB", memory)
    slow_controller(rows, work, stack, realm, folder, 1 if quick else 3)


def start_realm(stack):
    try:
        import servers
    except ImportError as problem:
        raise Lacking(str(problem)) from None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    folder.chmod(0o755)
    try:
        realm = servers.mit_realm(folder / "realm", servers.free_port())
        return stack.enter_context(realm), folder
    except servers.LabError as problem:
        raise Lacking(str(problem)) from None


def start_up(rows, run, env, rounds):
    """Whole processes: import alone (timed inside), and start to first token.

    All lie behind the standard library on sys.path, as in site-packages: before it
    they would slow each import of a standard module.
    """
    imports, tokens, env = {}, {}, {**env, "PYTHONPATH": ""}
    for number in range(rounds + 1):
        for peer in (OURS, *PEERS):
            code = f"{_START}\n{FIRST_TOKEN[peer]}\n{_END}"
            code = code.replace("LOOP", repr(run.loop)).replace("PATH", repr(run.path))
            start = time.perf_counter()
            output, errors = run(["-c", code], env)
            took = time.perf_counter() - start
            if "took" in output and number:  # the first round warms the disk
                told = output.split("took")[1].split()
                imports.setdefault(peer, []).append(1e3 * float(told[0]))
            if "well" not in output:
                tokens[peer] = (errors.strip().splitlines() or ["no word"])[-1]
            elif number and isinstance(tokens.setdefault(peer, []), list):
                tokens[peer].append(1e3 * took)
    rows.add("import", "ms", imports)
    rows.add("process start to first token, end", "ms", tokens)


#: Each line 0 imports, the rest makes the first Kerberos token of who is logged on.
FIRST_TOKEN = {
    OURS: "import sspi_client\nMARK()\n"
    "around = None\n"
    "import ctypes\n"
    "if hasattr(ctypes.WinDLL('ntdll.dll', winmode=0x800), 'wine_get_version'):\n"
    "    around, loop = sspi_client.Secur32(), ctypes.CDLL(LOOP)\n"
    "    ctypes.c_int.in_dll(loop, 'on_wine').value = 1\n"
    "    for name, other in (('InitializeSecurityContextW', 'initialize'),\n"
    "                        ('FreeContextBuffer', 'give_back')):\n"
    "        function = getattr(loop, other)\n"
    "        function.restype, *function.argtypes = sspi_client.PROTOTYPES[name]\n"
    "        setattr(around, name, function)\n"
    f"flow = sspi_client.authenticate({TARGET!r}, package='Kerberos', secur32=around)\n"
    "token = next(flow)\nflow.close()",
    "pywin32": "import sspi\nMARK()\n"
    f"auth = sspi.ClientAuth('Kerberos', targetspn={TARGET!r})\n"
    "token = auth.authorize(None)[1][0].Buffer",
    "sspilib": "import sspilib\nMARK()\n"
    "use = sspilib.raw.CredentialUse.SECPKG_CRED_OUTBOUND\n"
    "credential = sspilib.raw.acquire_credentials_handle(\n"
    "    None, 'Kerberos', use).credential\n"
    f"token = sspilib.ClientSecurityContext(credential, {TARGET!r}).step()",
    "pyspnego": "import spnego\nMARK()\n"
    "token = spnego.client(hostname='localhost', service='HTTP',\n"
    "    protocol='kerberos').step()",
    "winkerberos": "import winkerberos\nMARK()\n"
    "_, context = winkerberos.authGSSClientInit(\n"
    "    'HTTP@localhost', mech_oid=winkerberos.GSS_MECH_OID_KRB5)\n"
    "winkerberos.authGSSClientStep(context, '')\n"
    "token = winkerberos.authGSSClientResponse(context)",
}
_START = """\
import sys, time
sys.path += PATH
start = time.perf_counter()
def MARK():
    print("took", time.perf_counter() - start, flush=True)
"""
_END = "assert len(token) > 100\nprint('well')"


def slow_controller(rows, work, stack, realm, folder, rounds):
    """One thread and eight, while each answer of the KDC comes late."""
    import servers

    port = stack.enter_context(relay(realm.kdc_port))
    config = folder / "slow.conf"
    text = Path(realm.krb5_config).read_text()
    config.write_text(text.replace(f"127.0.0.1:{realm.kdc_port}", f"127.0.0.1:{port}"))
    profile = dict(
        os.environ, KRB5_CONFIG=str(realm.krb5_config),
        KRB5_KDC_PROFILE=str(Path(realm.krb5_config).parent / "kdc.conf"),
    )  # fmt: skip
    for number in range(9):
        command = ["kadmin.local", "-q", f"addprinc -randkey service{number}/localhost"]
        subprocess.run(command, env=profile, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)  # fmt: skip
    for number in range(rounds):
        for peer in (OURS, "pywin32"):
            ccache = folder / f"slow-{peer}-{number}"  # with no ticket for a service
            servers.kinit(realm, "alice", ccache)
            env = {"KRB5_CONFIG": str(config), "KRB5CCNAME": f"FILE:{ccache}"}
            found = work("threads", env, peer=peer)
            if "error" in found:
                rows.note(f"slow controller, {peer}: {found['error']}")
                continue
            for label, took in found.items():
                name = f"slow controller, {label}"
                before = rows.figures.get(name, {}).get(peer, [])
                rows.add(name, "ms", {peer: [*before, 1e3 * took]})


@contextlib.contextmanager
def relay(kdc_port):
    """Pass datagrams and connections on to the KDC, its answers late; yield a port."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 0))
    port = tcp.getsockname()[1]
    udp.bind(("127.0.0.1", port))
    tcp.listen(16)

    def ask(question, client):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kdc:
            kdc.settimeout(5)
            kdc.sendto(question, ("127.0.0.1", kdc_port))
            answer = kdc.recv(65536)
        time.sleep(KDC_DELAY)
        udp.sendto(answer, client)

    def carry(connection):
        with connection, socket.create_connection(("127.0.0.1", kdc_port)) as kdc:
            while True:
                question = connection.recv(65536)
                if not question:
                    return
                kdc.sendall(question)
                answer = kdc.recv(65536)
                time.sleep(KDC_DELAY)
                connection.sendall(answer)

    def serve(receive, answer):
        while True:
            try:
                arguments = receive()
            except OSError:
                return  # closed: the run is over
            threading.Thread(target=answer, args=arguments, daemon=True).start()

    for receive, answer in (
        (lambda: udp.recvfrom(65536), ask),
        (lambda: tcp.accept()[:1], carry),
    ):
        threading.Thread(target=serve, args=(receive, answer), daemon=True).start()
    try:
        yield port
    finally:
        udp.close()
        tcp.close()


# -- Windows, from inside ------------------------------------------------------


def worker(task, loop, **facts):
    return globals()["task_" + task](Loop(loop), **facts)


_AROUND = (
    ("InitializeSecurityContextW", "initialize"), ("FreeContextBuffer", "give_back"),
)  # fmt: skip


class Loop:
    """bench_loop.dll, and what it must be handed."""

    def __init__(self, path):
        import sspi_client

        self.module, self.dll, self.on_wine = sspi_client, None, False
        if path:
            self.dll = ctypes.CDLL(path)
            self.on_wine = hasattr(
                ctypes.WinDLL("ntdll.dll", winmode=0x800), "wine_get_version"
            )
            ctypes.c_int.in_dll(self.dll, "on_wine").value = self.on_wine
            if self.on_wine:
                self.go_around()
            self.dll.handshakes.restype = self.dll.protect.restype = ctypes.c_double
            self.dll.dial.restype = ctypes.c_size_t
            self.dll.hang_up.argtypes = (ctypes.c_size_t,)
            self.dll.exchange.argtypes = (
                ctypes.c_size_t, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_void_p
            )  # fmt: skip
            self.room = (ctypes.c_char * 12000)()  # bench_loop.c, LONGEST
        server = sspi_client.FakeServer(sspi_client.FakeDomain("LAB", {}))
        flow = sspi_client.authenticate(
            TARGET, sspi_client.Identity("alice", PASSWORD, "LAB"), package="NTLM"
        )
        with contextlib.closing(flow):
            self.challenge = server.accept(next(flow))
        self.identity = sspi_client.SEC_WINNT_AUTH_IDENTITY_W(Flags=2)
        self._kept = []
        texts = (("User", "alice"), ("Domain", "LAB"), ("Password", PASSWORD))
        for field, text in texts:
            wide = ctypes.create_unicode_buffer(text)
            self._kept.append(wide)
            setattr(self.identity, field, ctypes.addressof(wide))
            setattr(self.identity, field + "Length", len(text))

    def handshakes(
        self, package, times, flags=ONE_LEG, reply=None, port=0, shared=False
    ):
        """Return the time [s] of so many handshakes in C."""
        identity = ctypes.byref(self.identity) if package == "NTLM" else None
        took = self.dll.handshakes(
            ctypes.c_wchar_p(package), ctypes.c_wchar_p(TARGET), identity, flags,
            reply, len(reply or b""), port, int(shared), times,
        )  # fmt: skip
        if took < 0:
            raise OSError(f"status {int(took) & 0xFFFFFFFF:#x}")
        return took

    @contextlib.contextmanager
    def line(self, port):
        """Yield exchange(token) -> reply, over a connection to *port*; 0: no answer."""
        if not port:
            yield lambda token: None
            return
        link, room = self.dll.dial(port), self.room

        def exchange(token):
            length = self.dll.exchange(link, token, len(token), room)
            if length < 0:
                raise OSError("the acceptor has gone")
            return room[:length]

        try:
            yield exchange
        finally:
            self.dll.hang_up(link)

    def go_around(self):
        """Let the loop's functions make up for what Wine's Kerberos lacks, in a
        Secur32 that is made and bound for each authenticate(), as always."""
        around = {}
        for ours, theirs in _AROUND:
            function = around[ours] = getattr(self.dll, theirs)
            function.restype, *function.argtypes = self.module.PROTOTYPES[ours]

        class Around(self.module.Secur32):
            def __init__(self):
                super().__init__()
                vars(self).update(around)

        self.module.Secur32 = Around

    def add_to(self, contenders, run):
        if self.dll:
            contenders["C"] = run


def task_kerberos(loop, rounds, times, port=0):
    """The first leg of who is logged on; with *port* the whole handshake."""
    module, flags = loop.module, MUTUAL if port else ONE_LEG

    def ours():
        flow = module.authenticate(TARGET, package="Kerberos", flags=flags)
        with loop.line(port) as exchange:
            context = module.drive(flow, exchange)
        context.close()

    contenders = {OURS: repeated(ours)}
    loop.add_to(
        contenders, lambda times: loop.handshakes("Kerberos", times, flags, port=port)
    )
    if port:
        contenders["pywin32"] = repeated(lambda: pywin32_kerberos(loop, port))
    else:
        contenders.update({name: repeated(job) for name, job in peer_jobs().items()})
    return in_turns(contenders, rounds, times)


def pywin32_kerberos(loop, port):
    import sspi

    auth = sspi.ClientAuth("Kerberos", targetspn=TARGET, scflags=MUTUAL)
    with loop.line(port) as exchange:
        reply = None
        while True:
            status, output = auth.authorize(reply)
            if not status:
                return
            reply = exchange(output[0].Buffer)


def task_leg(loop, rounds, times):
    """One leg on a shared credential: what a connection of a pool costs."""
    module = loop.module
    with module.Credential(package="Kerberos") as credential:

        def ours():
            flow = credential.authenticate(TARGET, flags=ONE_LEG)
            module.drive(flow, lambda token: None).close()

        contenders = {OURS: repeated(ours)}
        loop.add_to(
            contenders, lambda times: loop.handshakes("Kerberos", times, shared=True)
        )
        return in_turns(contenders, rounds, times)


def peer_jobs():
    """Return peer -> a function that makes a Kerberos token and frees everything."""
    jobs = {}
    with contextlib.suppress(ImportError):
        import sspi

        jobs["pywin32"] = lambda: sspi.ClientAuth(
            "Kerberos", targetspn=TARGET, scflags=ONE_LEG
        ).authorize(None)
    with contextlib.suppress(ImportError):
        import sspilib

        use = sspilib.raw.CredentialUse.SECPKG_CRED_OUTBOUND
        jobs["sspilib"] = lambda: sspilib.ClientSecurityContext(
            sspilib.raw.acquire_credentials_handle(None, "Kerberos", use).credential,
            TARGET, ONE_LEG,
        ).step()  # fmt: skip
    with contextlib.suppress(ImportError):
        import spnego

        request = spnego.ContextReq.integrity | spnego.ContextReq.confidentiality
        request |= spnego.ContextReq.replay_detect | spnego.ContextReq.sequence_detect
        jobs["pyspnego"] = lambda: spnego.client(
            hostname="localhost", service="HTTP", protocol="kerberos",
            context_req=request,
        ).step()  # fmt: skip
    with contextlib.suppress(ImportError):
        import winkerberos

        def kerberos():
            _, context = winkerberos.authGSSClientInit(
                "HTTP@localhost", gssflags=ONE_LEG,
                mech_oid=winkerberos.GSS_MECH_OID_KRB5,
            )  # fmt: skip
            winkerberos.authGSSClientStep(context, "")

        jobs["winkerberos"] = kerberos
    return jobs


def task_ntlm(loop, rounds, times, first):
    module = loop.module
    identity = module.Identity("alice", PASSWORD, "LAB")

    def ours():
        flow = module.authenticate(TARGET, identity, package="NTLM", flags=ONE_LEG)
        if first:
            next(flow)
            flow.close()
        else:
            module.drive(flow, lambda token: loop.challenge).close()

    contenders = {OURS: repeated(ours)}
    reply = None if first else loop.challenge
    loop.add_to(contenders, lambda times: loop.handshakes("NTLM", times, reply=reply))
    contenders["pywin32"] = repeated(lambda: pywin32_ntlm(loop, first))
    if not loop.on_wine:
        contenders["sspilib"] = repeated(lambda: sspilib_ntlm(loop, first))
    return in_turns(contenders, rounds, times)


def pywin32_ntlm(loop, first=False):
    import sspi

    auth = sspi.ClientAuth(
        "NTLM", auth_info=("alice", "LAB", PASSWORD), targetspn=TARGET, scflags=ONE_LEG
    )
    auth.authorize(None)
    if not first:
        auth.authorize(loop.challenge)
    return auth


def sspilib_ntlm(loop, first=False):
    import sspilib

    credential = sspilib.UserCredential("alice", PASSWORD, "LAB", protocol="NTLM")
    context = sspilib.ClientSecurityContext(credential, TARGET, ONE_LEG)
    context.step()
    if not first:
        context.step(in_token=loop.challenge)
    return context


def task_protect(loop, rounds, times, size, sign=False):
    module, text = loop.module, bytes(range(256)) * (size // 256) + bytes(size % 256)
    flow = module.authenticate(
        TARGET, module.Identity("alice", PASSWORD, "LAB"), package="NTLM"
    )
    with module.drive(flow, lambda token: loop.challenge) as context:
        protect = context.sign if sign else context.seal
        contenders = {OURS: repeated(lambda: protect(text))}
        with contextlib.suppress(ImportError):
            auth = pywin32_ntlm(loop)
            theirs = auth.sign if sign else auth.encrypt
            contenders["pywin32"] = repeated(lambda: theirs(text))
        with contextlib.suppress(ImportError):
            if not loop.on_wine:  # it passes ..._EXW, which crashes there
                peer = sspilib_ntlm(loop)
                protected = peer.sign if sign else peer.wrap
                contenders["sspilib"] = repeated(lambda: protected(text))
        if loop.dll and loop.dll.establish(
            ctypes.c_wchar_p(TARGET), ctypes.byref(loop.identity), ONE_LEG,
            loop.challenge, len(loop.challenge),
        ) >= 0:  # fmt: skip
            contenders["C"] = lambda times: loop.dll.protect(
                text, size, int(not sign), 1, times
            )
        return in_turns(contenders, rounds, times)


def task_memory(loop, peer, times):
    """Return the working set after *times* handshakes, and its growth [bytes]."""
    module, jobs = loop.module, peer_jobs()

    def ours():
        flow = module.authenticate(TARGET, package="Kerberos", flags=ONE_LEG)
        module.drive(flow, lambda token: None).close()

    job = ours if peer == OURS else jobs.get(peer)
    if job is None:
        return {"error": "not installed"}
    try:
        for _ in range(times // 10):
            job()
        start = working_set()
        for _ in range(times - times // 10):
            job()
    except Exception as problem:
        return {"error": f"{type(problem).__name__}: {problem}"}
    end = working_set()
    return {"working_set": end, "growth": end - start}


def working_set():
    """Return what GetProcessMemoryInfo calls the working set [bytes]."""
    counters = (ctypes.c_size_t * 10)()  # psapi.h; the first two are 32 bits each
    ctypes.c_uint32.from_buffer(counters).value = 72  # cb, on x64
    kernel = ctypes.WinDLL("kernel32.dll", winmode=0x800)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32
    )  # fmt: skip
    kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), counters, 72)
    return counters[2]


def task_threads(loop, peer):
    """Return the wall time of one thread and of eight, each with its own service."""
    module = loop.module

    def ours(target):
        flow = module.authenticate(target, package="Kerberos", flags=ONE_LEG)
        module.drive(flow, lambda token: None).close()

    def pywin32(target):
        import sspi

        sspi.ClientAuth("Kerberos", targetspn=target, scflags=ONE_LEG).authorize(None)

    job, failures = {OURS: ours, "pywin32": pywin32}[peer], []

    def run(target):
        try:
            job(target)
        except Exception as problem:
            failures.append(f"{type(problem).__name__}: {problem}")

    run(TARGET)  # warm
    found = {}
    for label, services in (("1 thread", [8]), ("8 threads", range(8))):
        threads = [
            threading.Thread(target=run, args=(f"service{number}/localhost",))
            for number in services
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found[label] = time.perf_counter() - start
    return {"error": failures[0]} if failures else found


# -- The chart -----------------------------------------------------------------

COLOURS = {OURS: "#1f6feb", "C": "#57606a"}
WIDTH, LINE, LEFT = 860, 18, 400


def chart(summary):
    """Draw each measurement's medians as bars, as long as the longest allows."""
    rows = summary["rows"]
    parts, y, before = [], 30, None
    for row in rows:
        name = row["measurement"]
        longest = max(r["median"] for r in rows if r["measurement"] == name) or 1
        if name != before:
            y += 10
            parts.append(f'<text x="10" y="{y + 13}" font-weight="bold">{name}</text>')
        before = name
        length = max(1, (WIDTH - LEFT - 110) * row["median"] / longest)
        colour = COLOURS.get(row["contender"], "#afb8c1")
        middle = f'y="{y + 13}"'
        parts.append(
            f'<text x="{LEFT - 8}" {middle} text-anchor="end">{row["contender"]}</text>'
            f'<rect x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{LINE - 4}" '
            f'fill="{colour}"/><text x="{LEFT + length + 6:.1f}" {middle}>'
            f'{row["median"]:.3g} {row["unit"]}</text>'
        )
        y += LINE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 20}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{y + 20}" fill="white"/>\n'
        '<text x="10" y="20" font-size="14">Medians, shorter is better. On Wine, '
        "but for the first; bench.json has the ratios.</text>\n"
    )
    return head + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    sys.exit(main())
