"""Make certificates.json: a certificate of each signature, and its channel bindings.

    pip install cryptography asn1crypto
    python tests/data/make_certificates.py

OpenSSL makes the certificates and computes the digests. Which hash is due is told
by cryptography and by asn1crypto, which must agree; where SHA-3 or DSA is new to one
of them the other must know it, or else OpenSSL's own name of the signature tells. The
rule of RFC 5929 4.1 is spelled out in due(). No private key is kept. Certificates that
are listed already stay as they are.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import asn1crypto
import asn1crypto.x509
import cryptography
import cryptography.exceptions
import cryptography.x509

DATA = Path(__file__).resolve().parent

RSA = ["-newkey", "rsa:2048"]
EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
DSA = ["-newkey", "dsa:dsa.pem"]
PSS = [*RSA, "-sigopt", "rsa_padding_mode:pss", "-sigopt"]
LEGACY = ["-provider", "default", "-provider", "legacy"]

#: name -> options of `openssl req`
CERTIFICATES = {
    "rsa-md5": [*RSA, "-md5"],
    "rsa-sha1": [*RSA, "-sha1"],
    "rsa-sha224": [*RSA, "-sha224"],
    "rsa-sha256": [*RSA, "-sha256"],
    "rsa-sha384": [*RSA, "-sha384"],
    "rsa-sha512": [*RSA, "-sha512"],
    "ecdsa-sha1": [*EC, "-sha1"],
    "ecdsa-sha224": [*EC, "-sha224"],
    "ecdsa-sha256": [*EC, "-sha256"],
    "ecdsa-sha384": [*EC, "-sha384"],
    "ecdsa-sha512": [*EC, "-sha512"],
    "pss-default-sha1": [*PSS, "rsa_pss_saltlen:20", "-sha1"],
    "pss-sha224": [*PSS, "rsa_pss_saltlen:28", "-sha224"],
    "pss-sha256": [*PSS, "rsa_pss_saltlen:32", "-sha256"],
    "pss-sha384": [*PSS, "rsa_pss_saltlen:48", "-sha384"],
    "pss-sha512": [*PSS, "rsa_pss_saltlen:64", "-sha512"],
    "pss-sha512-mgf1-sha256": [
        *PSS, "rsa_pss_saltlen:64", "-sigopt", "rsa_mgf1_md:sha256", "-sha512"],
    "pss-sha1-mgf1-sha512": [
        *PSS, "rsa_pss_saltlen:20", "-sigopt", "rsa_mgf1_md:sha512", "-sha1"],
    "ed25519": ["-newkey", "ed25519"],
    "ed448": ["-newkey", "ed448"],
    "unknown-ripemd160": [*RSA, *LEGACY, "-ripemd160"],
    "dsa-sha1": [*DSA, "-sha1"],
    "dsa-sha224": [*DSA, "-sha224"],
    "dsa-sha256": [*DSA, "-sha256"],
    "dsa-sha384": [*DSA, "-sha384"],
    "dsa-sha512": [*DSA, "-sha512"],
    **{
        f"{kind}-sha3-{bits}": [*key, f"-sha3-{bits}"]
        for kind, key in (("dsa", DSA), ("rsa", RSA), ("ecdsa", EC))
        for bits in (224, 256, 384, 512)
    },
}  # fmt: skip
LISTED = DATA / "certificates.json"


def main():
    known = {e["name"]: e for e in json.loads(LISTED.read_text())["certificates"]}
    with tempfile.TemporaryDirectory() as folder:
        say("openssl", "dsaparam", "-out", Path(folder, "dsa.pem"), "1024")
        listed = [
            known.get(name) or facts(name, Path(folder)) for name in CERTIFICATES
        ]
    openssl = say("openssl", "version").split(" (")[0].strip()
    about = (
        f"Self-signed certificates by {openssl}, which also computed the"
        f" digests; the hash is that of cryptography {cryptography.__version__}"
        f" and asn1crypto {asn1crypto.__version__}: see make_certificates.py."
    )
    text = json.dumps({"about": about, "certificates": listed}, indent=1)
    LISTED.write_text(text + "\n", "ascii")


def facts(name, folder):
    certificate = folder / f"{name}.der"
    subject = ["-subj", f"/CN={name}.test", "-nodes", "-days", "3650"]
    parameters = f"dsa:{folder / 'dsa.pem'}"
    options = [parameters if o == DSA[1] else o for o in CERTIFICATES[name]]
    say("openssl", "req", "-x509", *options, *subject, "-outform", "DER",
        "-keyout", folder / "key.pem", "-out", certificate)
    der = certificate.read_bytes()
    hash_name = due(der) or by_openssl(certificate) or "sha256"
    spelled = hash_name.replace("_", "-")
    digest = say("openssl", "dgst", f"-{spelled}", "-r", certificate).split()[0]
    return {"name": name, "hash": hash_name, "digest": digest, "der": der.hex()}


def due(der):
    """RFC 5929 4.1: the hash of the signature, but no MD5 and no SHA-1.

    None if neither knows the signature. The RFC leaves open what has no single
    hash, or none that we know: SHA-256.
    """
    told = {by_cryptography(der), by_asn1crypto(der)} - {None}
    if len(told) > 1:
        sys.exit(f"cryptography and asn1crypto differ: {told}")
    found = told.pop() if told else None
    return "sha256" if found in ("md5", "sha1") else found


def by_openssl(certificate):
    """Read SHA-2 with DSA, and SHA-3, out of what OpenSSL calls the signature."""
    text = say("openssl", "x509", "-inform", "DER", "-in", certificate, "-noout",
               "-text")
    name = re.search("Signature Algorithm: (.*)", text).group(1).lower()
    found = re.search("dsa_with_sha(3-)?(224|256|384|512)$", name)
    return found and "sha3_"[: 5 if found.group(1) else 3] + found.group(2)


def by_cryptography(der):
    certificate = cryptography.x509.load_der_x509_certificate(der)
    try:
        found = certificate.signature_hash_algorithm
    except cryptography.exceptions.UnsupportedAlgorithm:
        return None
    return found and found.name.replace("-", "_")


def by_asn1crypto(der):
    algorithm = asn1crypto.x509.Certificate.load(der)["signature_algorithm"]
    try:
        found = algorithm.hash_algo
    except ValueError:
        return None
    # Edwards curves have their hash inside, which signs no digest of the whole.
    return None if algorithm["algorithm"].native.startswith("ed") else found


def say(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
