"""What is tried on httpx and aiohttp alike, beside the table of outcomes.

Functions of a driver, see http_outcomes.py; CASES has them all.
"""

import zlib

from http_outcomes import (
    BOUND,
    MUTUAL,
    PAGE,
    THE_PAGE,
    Acceptor,
    Reply,
    every_name_is_here,
    plain,
    world,
)

import sspi_client
from sspi_client import DEFAULT_FLAGS, ISC_REQ

CASES = []


def case(function):
    CASES.append(function)
    return function


@case
def cookies_set_on_the_way_reach_the_next_leg_and_the_session(driver):
    """A load balancer pins by a cookie on the 401 (httpx-ntlm#18)."""
    with world(driver, kerberos=False) as here:
        pin = [("Set-Cookie", "node=n1; Path=/"), ("Set-Cookie", "way=401; Path=/")]
        first, last = Reply(401, pin), Reply(200, [("Set-Cookie", "way=200; Path=/")])
        site = here.serve(Acceptor(first=first, last=last._replace(body=THE_PAGE)))
        client = here.open(site)
        mine = {"Cookie": "mine=1; way=0"}
        if driver.name == "aiohttp":  # a header of one's own would hide the session's
            mine = None
        assert client.ask("GET", site.url, None, mine).body == THE_PAGE
        first, *legs = [request.headers.get("cookie", "") for request in site.log]
        assert len(legs) == 2 and "node" not in first
        for cookies in legs:
            pairs = sorted(cookies.replace(" ", "").split(";"))
            assert pairs == ["mine=1"] * bool(mine) + ["node=n1", "way=401"]
        assert client.cookies() == {"node": "n1", "way": "200"}


@case
def target_names_the_spn(driver):
    with world(driver, services=["HTTP/other.corp.test"]) as here:
        site = here.serve(Acceptor())
        client = here.open(site, target="HTTP/other.corp.test")
        assert client.ask("GET", site.url).body == THE_PAGE
        assert site.users == ["Kerberos CORP\\alice HTTP/other.corp.test"]


@case
def host_header_names_the_spn(driver):
    with world(driver, services=["HTTP/intranet.corp.test"]) as here:
        site = here.serve(Acceptor())
        headers = {"Host": "Intranet.corp.test:8080"}
        assert here.open(site).ask("GET", site.url, None, headers).body == THE_PAGE
        assert site.users == ["Kerberos CORP\\alice HTTP/intranet.corp.test"]
        assert {r.headers["host"] for r in site.log} == {headers["Host"]}


@case
def idn_host_is_an_a_label_in_the_spn(driver):
    with world(driver, services=["HTTP/xn--bcher-kva.test"]) as here:
        with every_name_is_here():
            site = here.serve(Acceptor(), name="bücher.test")
            assert here.open(site).ask("GET", site.url).body == THE_PAGE
        assert site.users == ["Kerberos CORP\\alice HTTP/xn--bcher-kva.test"]


@case
def ipv6_literal_is_a_host_like_any(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor(), address="::1", name="[::1]")
        assert here.open(site).ask("GET", site.url).body == THE_PAGE
        assert site.users == ["NTLM CORP\\alice HTTP/::1"]


@case
def delegation_is_asked_for_by_flags(driver):
    with world(driver) as here:
        site, asked = here.serve(Acceptor()), []

        class Witness:
            def __getattr__(self, name):
                function = getattr(here.fake, name)
                if name == "InitializeSecurityContextW":
                    return lambda *a: asked.append(ISC_REQ(a[3])) or function(*a)
                return function

        for flags in (DEFAULT_FLAGS, DEFAULT_FLAGS | ISC_REQ.DELEGATE):
            client = here.open(site, flags=flags, secur32=Witness())
            assert client.ask("GET", site.url).body == THE_PAGE
            assert {ISC_REQ.DELEGATE & bits for bits in asked} == {
                ISC_REQ.DELEGATE & flags}
            asked.clear()


@case
def credential_is_used_again_and_stays_its_owners(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        who = sspi_client.Identity("CORP\\bob", "Pä55wörd€")
        with sspi_client.Credential(who, secur32=here.fake) as credential:
            client = here.open(site, credential=credential, secur32=None)
            for _ in range(2):
                assert client.ask("GET", site.url).body == THE_PAGE
            client.close()
        assert here.fake.calls.count("AcquireCredentialsHandleW") == 1
        assert site.users == ["NTLM CORP\\bob HTTP/localhost"]


@case
def bindings_false_leaves_them_out(driver):
    for bindings, outcome in ((False, "refused"), (True, PAGE)):
        with world(driver, kerberos=False) as here:
            site = here.serve(Acceptor(), tls=True)  # it demands BOUND
            client = here.open(site, bindings=bindings)
            assert here.outcome(client, "GET", site.url)[0] == outcome
            assert BOUND


@case
def session_that_expires_logs_on_again(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor(expires=3))
        client = here.open(site)
        for _ in range(6):
            assert client.ask("GET", site.url).body == THE_PAGE
        assert len(site.users) == 2 and site.connections == 1


@case
def keep_alive_costs_no_new_logon(driver):
    for tls in (False, True):
        with world(driver, kerberos=False) as here:
            site = here.serve(Acceptor(), tls=tls)
            client = here.open(site)
            for _ in range(10):
                assert client.ask("GET", site.url).body == THE_PAGE
            assert len(site.log) == 12 and site.connections == 1


@case
def first_401_that_closes_goes_on_with_a_new_connection(driver):
    goodbyes = (
        Reply(401, [("Connection", "close")]), Reply(401, [("connection", "CLOSE")]),
        Reply(401, version="1.0"),
    )
    for tls in (False, True):
        for goodbye in goodbyes:
            with world(driver, kerberos=False) as here:
                site = here.serve(Acceptor(first=goodbye), tls=tls)
                assert here.open(site).ask("GET", site.url).body == THE_PAGE
                assert site.connections == 2 and len(site.log) == 3


@case
def pages_of_a_401_are_read_within_bounds(driver):
    gzip = [("Content-Encoding", "gzip")]
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"no" * 99999) + packer.flush()
    pages = {
        "compressed": (Reply(401, gzip, packed), 1),
        "badly compressed": (Reply(401, gzip, b"this is no gzip"), None),
        "large": (Reply(401, body=b"x" * 500000), 1),
        "too large": (Reply(401, body=b"x" * 3000000), 2),
        "cut off": (Reply(401, [("Content-Length", "99")], b"cut", close=True), 2),
    }
    for name, (page, connections) in pages.items():
        with world(driver, kerberos=False) as here:
            site = here.serve(Acceptor(first=page))
            assert here.open(site).ask("GET", site.url).body == THE_PAGE, name
            assert connections in (None, site.connections), name


@case
def page_without_end_in_mid_logon_is_a_broken_connection(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor(leg=Reply(401, body=b"x" * 3000000)))
        assert here.outcome(here.open(site), "GET", site.url)[0] == "broken"
        assert len(site.tokens()) == 1


@case
def head_and_204_have_no_page(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        answer = here.open(site).ask("HEAD", site.url)
        assert (answer.status, answer.body) == (200, b"")
        assert site.connections == 1
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor(last=Reply(204)))
        client = here.open(site)
        for _ in range(2):
            assert client.ask("GET", site.url).status == 204
        assert site.connections == 1


@case
def connection_of_one_user_never_serves_another(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        bob = sspi_client.Identity("CORP\\bob", "Pä55wörd€")
        for _ in range(2):
            for who, name in ((None, "alice"), (bob, "bob")):
                client = here.open(site, identity=who)
                answer = client.ask("GET", site.url)
                assert answer.headers["x-user"] == f"CORP\\{name}"
        assert site.connections == 4


@case
def ntlm_is_refused_where_it_is_ruled_out(driver):
    """require=MUTUAL_AUTH rules it out as well: NTLM cannot prove a server."""
    for options in ({"allow_ntlm": False}, {"require": MUTUAL}):
        with world(driver, kerberos=False) as here:
            site = here.serve(Acceptor(offers=["NTLM"]))
            word, error = here.outcome(here.open(site, **options), "GET", site.url)
            assert word == "refused"
            assert error.__cause__.name == "SEC_E_SECURITY_QOS_FAILED"
            assert site.tokens() == []


@case
def other_urls_of_the_session_are_asked_without(driver):
    with world(driver) as here:
        asks = Reply(401, [("WWW-Authenticate", "Negotiate")], b"no")
        other, site = here.serve(plain(asks)), here.serve(Acceptor())
        client = here.open(site)
        assert client.ask("GET", other.url).status == 401
        assert other.tokens() == [] and here.fake.calls == []
        assert client.ask("GET", site.url).body == THE_PAGE


@case
def one_adapter_serves_two_hosts(driver):
    """requests-negotiate-sspi keeps the first host's SPN for all others."""
    services = ["HTTP/one.test", "HTTP/two.test"]
    with world(driver, services=services) as here, every_name_is_here():
        sites = [here.serve(Acceptor(), name=name) for name in ("one.test", "two.test")]
        client = here.open(*sites)
        for _ in range(2):
            for site in sites:
                assert client.ask("GET", site.url).body == THE_PAGE
        for site, service in zip(sites, services):
            assert site.users == [f"Kerberos CORP\\alice {service}"]


@case
def refusal_names_package_spn_and_leg(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        who = sspi_client.Identity("CORP\\alice", "Hunter2!")
        word, error = here.outcome(here.open(site, identity=who), "GET", site.url)
        reason = error.__cause__
        facts = (reason.package, reason.target, reason.leg)
        assert (word, *facts) == ("refused", "Negotiate", "HTTP/localhost", 2)
        assert all(part in str(error) for part in (
            "Negotiate", "HTTP/localhost", "SEC_E_LOGON_DENIED", "0x8009030C"))


@case
def idle_connection_that_the_server_closed_is_replaced(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor(last=Reply(200, body=THE_PAGE, close=True)))
        client = here.open(site)
        assert client.ask("GET", site.url).body == THE_PAGE
        site.threads[1].join(10)  # till it is closed over there
        assert client.ask("GET", site.url).body == THE_PAGE
        assert site.connections == 2 and len(site.users) == 2


@case
def preemptive_ntlm_logs_on_once_a_connection(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        client = here.open(site, preemptive=True)
        for _ in range(5):
            assert client.ask("GET", site.url).body == THE_PAGE
        assert len(site.log) == 2 + 4 and len(site.tokens()) == 2
