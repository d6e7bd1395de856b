"""Submits one message with smtplib, as a program that logs in does.

HOST PORT starttls|implicit CA MECHANISM USER PASSWORD FROM TO FILE
"""
import smtplib
import ssl
import sys

host, port, start, ca, mechanism, user, password, sender, recipient, path = sys.argv[1:]
with open(path, "rb") as file:
    message = file.read()
context = ssl.create_default_context(cafile=ca)
if start == "implicit":
    server = smtplib.SMTP_SSL(host, int(port), local_hostname="client.test", context=context)
else:
    server = smtplib.SMTP(host, int(port), local_hostname="client.test")
    server.starttls(context=context)
with server:
    server.ehlo()
    server.user, server.password = user, password
    server.auth(mechanism, getattr(server, "auth_" + mechanism.lower().replace("-", "_")))
    options = []
    if any(octet > 127 for octet in message):
        options.append("BODY=8BITMIME")
    if not (sender + recipient).isascii():
        options.append("SMTPUTF8")
    server.sendmail(sender, [recipient], message, options)
