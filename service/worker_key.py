"""Encrypts connections to workers with ZeroMQ's CURVE and one key pair for all.

The pair is in the two files of `zmq.auth.create_certificates`. A worker reads the secret key, everything else the
public one. The public key is never sent, and nobody can connect without it, so it works like a password.
"""

from __future__ import annotations

import struct
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from service.errors import ConfigurationError

NAME, SECRET_SUFFIX = "worker", ".key_secret"
KEY_BYTES = 32

Options = dict[int, bytes | int]  # of sockets


def make_key_files(directory: Path) -> tuple[Path, Path]:
    """Writes and returns worker.key and worker.key_secret, which only their owner can read.

    Raises ConfigurationError if one of them exists or cannot be written.
    """
    for path in (directory / f"{NAME}.key", directory / f"{NAME}{SECRET_SUFFIX}"):
        if path.exists():
            raise ConfigurationError(f"{path} already exists; expected a directory without key files")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        public, secret = map(Path, zmq.auth.create_certificates(directory, NAME))
        public.chmod(0o600)
        secret.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot write key files to {directory}: {error.strerror}") from None
    return public, secret


def require_key(path: Path) -> Options:
    """Returns the options of sockets that accept only peers with the key. Raises ConfigurationError."""
    _, secret = _read(path)
    if secret is None:
        raise ConfigurationError(f"invalid key file: {path} has no secret key; expected the file *{SECRET_SUFFIX}")
    return {zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: secret}


def present_key(path: Path) -> Options:
    """Returns the options of sockets that present the key. Raises ConfigurationError."""
    public, _ = _read(path)
    own_public, own_secret = zmq.curve_keypair()
    return {zmq.CURVE_SERVERKEY: public, zmq.CURVE_PUBLICKEY: own_public, zmq.CURVE_SECRETKEY: own_secret}


def _read(path: Path) -> tuple[bytes, bytes | None]:
    if not zmq.has("curve"):
        raise ConfigurationError("this build of ZeroMQ does not support CURVE; expected pyzmq's own wheels")
    try:
        public, secret = zmq.auth.load_certificate(path)
        if any(len(z85.decode(key)) != KEY_BYTES for key in (public, secret) if key):
            raise ValueError
    except (OSError, ValueError, KeyError, struct.error):
        raise ConfigurationError(f"invalid key file: {path}; expected one that `danmaku key --worker` wrote") from None
    return public, secret
