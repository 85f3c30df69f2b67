"""A certificate authority and bearer tokens for tests: made by openssl and by `espalier token new`, as an operator would."""
import json
import os
import pathlib
import subprocess

BIN = pathlib.Path(os.environ.get("ESPALIER_BIN", "build/release/bin")).resolve()
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*arguments, **options):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, **options)
    assert done.returncode == 0, f"openssl {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


class Authority:
    """Signs certificates; everything it makes lies in `folder`: NAME.pem and NAME.key."""

    def __init__(self, folder, name="ca"):
        self.folder = pathlib.Path(folder)
        self.name = name
        self.certificate = self.folder / f"{name}.pem"
        openssl("req", "-x509", *KEY, "-keyout", self.folder / f"{name}.key", "-out", self.certificate, "-days", 2,
                "-subj", f"/CN=test authority {name}", "-addext", "keyUsage=critical,keyCertSign")

    def issue(self, name, hosts="DNS:localhost,IP:127.0.0.1", days=1):
        """A certificate with its key; negative days: one that has expired. What had the name before is replaced, each file at once."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        request = openssl("req", *KEY, "-keyout", f"{key}.new", "-subj", f"/CN={name}", "-addext", f"subjectAltName={hosts}")
        openssl("x509", "-req", "-CA", self.certificate, "-CAkey", self.folder / f"{self.name}.key", "-days", days,
                "-copy_extensions", "copyall", "-out", f"{certificate}.new", input=request)
        os.replace(f"{key}.new", key)
        os.replace(f"{certificate}.new", certificate)
        return certificate, key


def new_token(path, name, role):
    """Writes a fresh token to `path`; returns the line that makes servers accept it."""
    made = json.loads(subprocess.run([BIN / "espalier", "--json", "token", "new", "--name", name, "--role", role],
                                     capture_output=True, text=True, check=True, timeout=30).stdout)
    pathlib.Path(path).write_text(made["token"] + "\n")
    return made["line"]
