"""Verifies each message of a folder with dkimpy, and says which verdicts are not as its file's name says.
The keys are in the file `keys` there, by name; no DNS is asked. Ed25519 in a chain is unknown to dkimpy:
those files are left out.

    python3 verify.py FOLDER
"""

import sys
from pathlib import Path

import dkim

folder = Path(sys.argv[1])
keys = {}
for line in (folder / "keys").read_text().splitlines():
    name, record = line.split("\t")
    keys[name.encode() + b"."] = record.encode()


def look_up(name, timeout=5):
    return keys.get(name if isinstance(name, bytes) else name.encode())


def verdicts(name, octets):
    if ".arc" in name:
        status, _, why = dkim.arc_verify(octets, dnsfunc=look_up)
        return [True if status == dkim.CV_Pass else why]
    message = dkim.DKIM(octets)
    count = sum(1 for field, _ in message.headers if field.lower() == b"dkim-signature")
    results = []
    for index in range(count):
        try:
            results.append(message.verify(index, dnsfunc=look_up))
        except dkim.DKIMException as error:
            results.append(str(error))
    return results


files = [file for file in sorted(folder.glob("*.eml")) if ".arc-ed" not in file.name]
total = wrong = 0
for file in files:
    results = verdicts(file.name, file.read_bytes())
    total += len(results)
    if not results or any((result is True) != ("pass" in file.name) for result in results):
        print(f"{file.name}: {results}")
        wrong += 1
print(f"dkimpy: {len(files)} messages, {total} verdicts, {wrong} messages wrong")
sys.exit(0 if total and not wrong else 1)
