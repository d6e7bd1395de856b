"""A server made of aiosmtpd that keeps each message as a file: the envelope, an empty line, the content.

PORT PORT_IMPLICIT CERT KEY USER PASSWORD FOLDER
"""
import logging
import os
import signal
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

# It warns of a name of its own.
logging.disable(logging.WARNING)
port, implicit, cert, key, user, password, folder = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(cert, key)
kept = 0


class Keep:
    async def handle_DATA(self, server, session, envelope):
        global kept
        kept += 1
        login = session.auth_data.login.decode() if session.authenticated else "-"
        head = [login, envelope.mail_from, " ".join(envelope.mail_options), *envelope.rcpt_tos]
        path = os.path.join(folder, f"{kept:04}")
        with open(path + ".new", "wb") as file:
            file.write("\n".join(head).encode() + b"\n\n" + envelope.content)
        os.rename(path + ".new", path + ".eml")
        return "250 2.0.0 kept"


def authenticator(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and data == LoginPassword(user.encode(), password.encode())
    return AuthResult(success=right, handled=False, auth_data=data)


common = dict(hostname="127.0.0.1", decode_data=False, enable_SMTPUTF8=True, authenticator=authenticator)
plain = Controller(Keep(), port=int(port), tls_context=context, **common)
secure = Controller(Keep(), port=int(implicit), ssl_context=context, auth_require_tls=False, **common)
plain.start()
secure.start()
print("ready", flush=True)
signal.pause()
