"""A web server whose NTLM and Negotiate are FakeServer's, for browsers to log on to."""
import base64
import collections
import contextlib
import http.server
import ssl
import threading

import sspi_client

Web = collections.namedtuple("Web", "port legs refused")


@contextlib.contextmanager
def serve(domain, scheme="NTLM", tls=None, bindings=None):
    """Serve one page to the users of *domain*, by *scheme*; yield a Web.

    `legs` and `refused` fill with what came: the kinds of the tokens, and the names of
    the errors. tls: (certificate, key), the names of PEM files. bindings [bytes]: what
    FakeServer demands.
    """
    web = Web(0, [], [])

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            self.start_over()

        def start_over(self):
            self.fake = sspi_client.FakeServer(domain, bindings)

        def log_message(self, *words):
            pass

        def do_GET(self):
            given, _, text = self.headers.get("Authorization", "").partition(" ")
            if self.path != "/":                # a browser wants an icon, too
                self.answer(404)
            elif self.fake.complete:
                self.answer(200)
            elif given != scheme:
                self.answer(401, scheme)
            else:
                self.take(base64.b64decode(text))

        def take(self, token):
            web.legs.append(sspi_client.mechanism(token))
            try:
                reply = self.fake.accept(token)
            except sspi_client.SspiError as error:
                web.refused.append(error.name)
                self.start_over()
                self.answer(401, scheme)
                return
            offer = scheme + " " + base64.b64encode(reply).decode() if reply else None
            self.answer(200 if self.fake.complete else 401, offer)

        def answer(self, status, offer=None):
            page = b""
            if status == 200:
                page = b"<p>hello %s</p>" % self.fake.user.encode()
            self.send_response(status)
            if offer:
                self.send_header("WWW-Authenticate", offer)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True,
                                                do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield web._replace(port=server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
