"""A FakeSecur32 that also looks whether passwords were wiped.

The fake itself does not: where a password stood is memory that may be freed by the
time of the next call. Memory of this size stays mapped in practice, and in a test a
crash is told; in a user's tests it would not be understood.
"""

import ctypes
import threading

import sspi_client
from sspi_client import SEC_WINNT_AUTH_IDENTITY_EXW, SEC_WINNT_AUTH_IDENTITY_W


class WatchedSecur32(sspi_client.FakeSecur32):
    """At the next call of the thread that acquired, the password must be gone."""

    def __init__(self, *facts, **knobs):
        super().__init__(*facts, **knobs)
        self._marks = {}  # by thread: another's may not have been wiped yet
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, self._watched(name, getattr(self, name)))

    def _watched(self, name, real):
        if name != "AcquireCredentialsHandleW":

            def call(*arguments):
                self._look()
                return real(*arguments)

            return call

        def acquire(*arguments):
            marks = _marks_of(arguments[4])
            status = real(*arguments)
            if status == sspi_client.SEC_E_OK:
                # The identity of before may have lain where this one lies.
                self._marks[threading.get_ident()] = marks
            return status

        return acquire

    def _look(self):
        marks = self._marks.pop(threading.get_ident(), [])
        if marks and all(ctypes.string_at(at, len(text)) == text for at, text in marks):
            self.crimes.append("the password was not wiped")

    def assert_clean(self):
        self._look()
        super().assert_clean()


def _marks_of(auth):
    """Return [(address, content)] of what must not stand there any more."""
    if auth is None:
        return []
    address = ctypes.addressof(getattr(auth, "_obj", auth))
    identity = SEC_WINNT_AUTH_IDENTITY_EXW.from_address(address)
    if identity.Version != sspi_client.SEC_WINNT_AUTH_IDENTITY_VERSION:
        identity = SEC_WINNT_AUTH_IDENTITY_W.from_address(address)
    width = 1 if identity.Flags & sspi_client.SEC_WINNT_AUTH_IDENTITY_ANSI else 2
    secret = _content(identity.Password, identity.PasswordLength * width)
    marks = [(identity.Password, secret)] if secret else []
    if 0 < len(secret) < 8:  # it may stand there by chance: then the name tells
        user = _content(identity.User, identity.UserLength * width)
        marks.append((identity.User, user))
    return marks


def _content(address, length):
    return ctypes.string_at(address, length) if address else b""
