"""The small world that the tests live in: plain data, for `from world import ...`."""

USERS = {
    "alice": "Secret123!",
    "bob": "Pä55wörd€",
    "emoji": "pass\U0001f600word",
    "empty": "",
}
KERBEROS_SPN = "HTTP/web.corp.test"  # the domain has a key for it
NTLM_SPN = "HTTP/printer.corp.test"  # the domain has none: Negotiate takes NTLM
BINDINGS = b"tls-server-end-point:" + bytes(range(32))
