"""An SMTP server whose TLS is of another time: old versions, short keys, certificates of version 1.

Usage: old_tls.py CERTIFICATE KEY NEWEST, where NEWEST is 1.1 or 1.3. Takes all mail and forgets it.
"""

import socket
import ssl
import sys
import threading

certificate, key, newest = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
# Level 0 allows what OpenSSL refuses by default.
context.set_ciphers("ALL:@SECLEVEL=0")
context.minimum_version = ssl.TLSVersion.TLSv1
context.maximum_version = ssl.TLSVersion.TLSv1_1 if newest == "1.1" else ssl.TLSVersion.TLSv1_3
context.load_cert_chain(certificate, key)


def talk(sock):
    stream = sock.makefile("rb")
    sock.sendall(b"220 old.test ESMTP\r\n")
    secure = False
    for line in stream:
        verb = line.split(b" ")[0].strip().upper()
        if verb == b"EHLO":
            sock.sendall(b"250 old.test\r\n" if secure else b"250-old.test\r\n250 STARTTLS\r\n")
        elif verb == b"STARTTLS":
            sock.sendall(b"220 go\r\n")
            sock = context.wrap_socket(sock, server_side=True)
            return talk_on(sock)
        elif not answer(sock, stream, verb):
            return


def talk_on(sock):
    stream = sock.makefile("rb")
    for line in stream:
        verb = line.split(b" ")[0].strip().upper()
        if not answer(sock, stream, verb):
            return


def answer(sock, stream, verb):
    if verb == b"DATA":
        sock.sendall(b"354 go\r\n")
        for line in stream:
            if line == b".\r\n":
                break
        sock.sendall(b"250 2.0.0 taken\r\n")
    elif verb == b"QUIT":
        sock.sendall(b"221 bye\r\n")
        return False
    else:
        sock.sendall(b"250 ok\r\n")
    return True


def serve(sock):
    try:
        talk(sock)
    except (OSError, ssl.SSLError):
        pass
    finally:
        sock.close()


listener = socket.create_server(("127.0.0.1", 0))
print("ready 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
