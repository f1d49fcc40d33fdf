"""Keys in a PKCS#11 token (an HSM), Ed25519, P-256 and AES: made there, used there. Only signatures, and keys that an AES key has wrapped
or unwrapped, leave it.

Modules of vendors bear one thread at a time (SoftHSM fails or hangs with two): each module has one thread for the life of the process,
each token one session in it, which is opened again when the token has ended it.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from knhk.model.faults import Stalled, Waiting
from knhk_runtime.keyfile import read_private
from knhk_verify.errors import Bad, demand
from knhk_verify.note import ed25519_ok
from knhk_verify.signed import ROLES, member, parse_json

if TYPE_CHECKING:
    import pkcs11

RETRY_S = 5.0
_PROBE = b"knhk: does the token sign as its public key says?"
Result = TypeVar("Result")


class Curve(NamedTuple):
    """A kind of key: PKCS#11's names of it, EC_PARAMS, bytes of a public key, how the token signs, and whether a signature is right."""

    name: str
    key_type: str
    params: bytes
    mechanism: str
    public_bytes: int
    sign: Callable[[Any, bytes], bytes]
    right: Callable[[bytes, bytes, bytes], bool]


def _eddsa(key: Any, data: bytes) -> bytes:
    from pkcs11 import Mechanism

    return bytes(key.sign(data, mechanism=Mechanism.EDDSA))


def _ecdsa(key: Any, data: bytes) -> bytes:
    """Of the digest: not every token can hash. In ASN.1, where tokens give r ‖ s."""
    from pkcs11 import Mechanism

    raw = bytes(key.sign(sha256(data).digest(), mechanism=Mechanism.ECDSA))
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


def _p256_right(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public).verify(signature, message, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


# EC_PARAMS of PKCS#11 3.0, section 2.3.5: curveName, a PrintableString; else the curve's object identifier.
ED25519 = Curve("Ed25519", "EC_EDWARDS", b"\x13\x0cedwards25519", "EC_EDWARDS_KEY_PAIR_GEN", 32, _eddsa, ed25519_ok)
P256 = Curve("P-256", "EC", bytes.fromhex("06082a8648ce3d030107"), "EC_KEY_PAIR_GEN", 65, _ecdsa, _p256_right)


class TokenFile(NamedTuple):
    """token.json (formats/signed.md): the vendor's module, label of the token, file with its PIN, prefix of the labels of our keys;
    whether the root's key is there, too; and whose keys are, of the roles."""

    module: Path
    token: str
    pin: Path
    prefix: str
    root: bool
    roles: frozenset[str]

    def label(self, role: str) -> str:
        """Label of the keys of `role`."""
        return self.prefix + role

    def open(self) -> Token:
        """The token: all of this process that ask for it get the same session, for a process logs in once."""
        return _token(self.module, self.token, self.pin)


def read_token_file(path: Path) -> TokenFile:
    """The token that a file names; a PIN's relative path starts beside it. Raises Stalled."""
    try:
        said = parse_json(path.read_bytes(), str(path))
        module, token, pin = (member(said, name, str, str(path)) for name in ("module", "token", "pin"))
        prefix = member({"prefix": "knhk/"} | said, "prefix", str, str(path))
        root = member({"root": False} | said, "root", bool, str(path))
        roles = member({"roles": list(ROLES)} | said, "roles", list, str(path))
        known = all(role in ROLES for role in roles) and len(set(roles)) == len(roles)
        demand(known, f"{path} roles", f"{roles}: must name each role that the token holds once, of {', '.join(ROLES)}")
        unknown = said.keys() - {"module", "token", "pin", "prefix", "root", "roles"}
        demand(not unknown, str(path), f"has {', '.join(sorted(unknown))}: must have module, token, pin, prefix, root and roles only")
    except OSError as error:
        raise Stalled("Token", f"{path}: {error.strerror}: must name a PKCS#11 token") from error
    except Bad as error:
        raise Stalled("Token", str(error)) from error
    return TokenFile(Path(module), token, path.parent / pin, prefix, root, frozenset(roles))


@functools.cache
def _token(module: Path, label: str, pin: Path) -> Token:
    return Token(module, label, pin)


@functools.cache
def _thread(module: Path) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=f"pkcs11-{module.name}")


class Token:
    """Signs from any thread. Raises Stalled for what a person must mend (no such module, token or key; a wrong PIN, which is not tried
    twice, for tokens lock), Waiting while the token does not answer. No message holds a PIN."""

    def __init__(self, module: Path, label: str, pin: Path) -> None:
        self._module, self._label, self._pin = module, label, pin
        self._session: pkcs11.Session | None = None
        self._keys = dict[tuple[str, bytes], Any]()
        self._refused: bytes | None = None  # digest of a PIN that the token did not take

    def publics(self, name: str, curve: Curve = ED25519) -> tuple[bytes, ...]:
        """Public keys of all pairs that are labelled `name`, in no order that says anything: raw, of P-256 the uncompressed point."""
        return self._ask(lambda session: tuple(public for public, _ in self._pairs(session, name, curve)))

    def make(self, name: str, curve: Curve = ED25519) -> bytes:
        """Makes a key pair labelled `name`, whose private part the token never gives away; returns the public key."""
        return self._ask(lambda session: self._make(session, name, curve))

    def sign(self, name: str, public: bytes, data: bytes, curve: Curve = ED25519) -> bytes:
        """Signature by the private key labelled `name` whose public key is `public`: 64 bytes, of P-256 in ASN.1 over the SHA-256."""
        return self._ask(lambda session: curve.sign(self._key(session, name, public, curve), data))

    def has_secret(self, name: str) -> bool:
        """Whether there is an AES key labelled `name`."""
        return self._ask(lambda session: len(self._secrets(session, name)) > 0)

    def make_secret(self, name: str) -> None:
        """Makes an AES-256 key labelled `name`, which the token never gives away."""
        self._ask(lambda session: self._make_secret(name))

    def encrypt(self, name: str, nonce: bytes, text: bytes, aad: bytes) -> bytes:
        """AES-256-GCM by the key labelled `name`; the tag of 16 bytes at the end."""
        return self._ask(lambda session: bytes(self._secret(session, name).encrypt(text, **_gcm(nonce, aad))))

    def decrypt(self, name: str, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
        """None for what this key did not encrypt so."""
        return self._ask(lambda session: self._decrypt(session, name, nonce, ciphertext, aad))

    def _ask(self, question: Callable[[pkcs11.Session], Result]) -> Result:
        return _thread(self._module).submit(self._answer, question).result()

    def _answer(self, question: Callable[[pkcs11.Session], Result]) -> Result:
        """In the module's thread. A session that the token has ended is opened again, once."""
        from pkcs11.exceptions import PKCS11Error

        had = self._session is not None
        try:
            return question(self._opened())
        except PKCS11Error as error:
            self._forget()
            if not had:
                raise self._waiting(error) from error
        try:
            return question(self._opened())
        except PKCS11Error as error:
            self._forget()
            raise self._waiting(error) from error

    def _waiting(self, error: Exception) -> Waiting:
        return Waiting("Token", f"token {self._label!r} of {self._module}: {_said(error)}", RETRY_S)

    def _forget(self) -> None:
        """The session may be gone already; nothing is left of it here."""
        from pkcs11.exceptions import PKCS11Error

        session, self._session = self._session, None
        self._keys.clear()
        try:
            if session is not None:
                session.close()
        except PKCS11Error:
            return

    def _opened(self) -> pkcs11.Session:
        from pkcs11 import exceptions

        if self._session is None:
            pin = read_private(self._pin, "the PIN of the token").strip()
            if self._refused == sha256(pin).digest():
                raise self._wrong_pin()
            token = self._token()
            try:
                self._session = token.open(user_pin=pin.decode("utf-8", "strict"))
            except exceptions.UserAlreadyLoggedIn:  # a process logs in once, whoever of it does
                self._session = token.open()
            except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange, UnicodeDecodeError):
                self._refused = sha256(pin).digest()
                raise self._wrong_pin() from None
            except (exceptions.PinLocked, exceptions.PinExpired, exceptions.UserPinNotInitialized) as error:
                raise Stalled("Token", f"token {self._label!r}: {_said(error)}: must have a PIN that may be used") from error
            self._refused = None
        return self._session

    def _wrong_pin(self) -> Stalled:
        return Stalled("Token", f"{self._pin}: is not the PIN of token {self._label!r}; it is not tried again until it changes")

    def _token(self) -> pkcs11.Token:
        import pkcs11

        try:
            return pkcs11.lib(str(self._module)).get_token(token_label=self._label)
        except (pkcs11.NoSuchToken, pkcs11.MultipleTokensReturned) as error:
            raise Stalled("Token", f"{self._module}: {_said(error)}: must have one token labelled {self._label!r}") from error
        except pkcs11.PKCS11Error as error:
            if not self._module.exists():
                raise Stalled("Token", f"{self._module}: must be the PKCS#11 module of the token's vendor") from error
            raise

    def _pairs(self, session: pkcs11.Session, name: str, curve: Curve) -> list[tuple[bytes, bytes]]:
        """(public key, id by which the token pairs it with its private key)."""
        from pkcs11 import Attribute, KeyType, ObjectClass

        wanted = {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType[curve.key_type],
            Attribute.LABEL: name,
        }
        return [(_raw(found[Attribute.EC_POINT], name, curve), bytes(found[Attribute.ID])) for found in session.get_objects(wanted)]

    def _key(self, session: pkcs11.Session, name: str, public: bytes, curve: Curve) -> Any:
        """Handle of a private key, kept for the life of the session; its first signature is verified."""
        from pkcs11 import Attribute, ObjectClass

        if (name, public) not in self._keys:
            ids = [id_ for found, id_ in self._pairs(session, name, curve) if found == public]
            wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: name}
            keys = [key for id_ in ids for key in session.get_objects(wanted | {Attribute.ID: id_})]
            if len(keys) != 1:
                where = f"token {self._label!r}, label {name!r}"
                raise Stalled("Token", f"{where}: must hold one private key of public key {public.hex()}, holds {len(keys)}")
            if not curve.right(public, curve.sign(keys[0], _PROBE), _PROBE):
                raise Stalled("Token", f"token {self._label!r}: signs {name} otherwise than {curve.name} is defined: cannot be used")
            self._keys[name, public] = keys[0]
        return self._keys[name, public]

    def _make(self, session: pkcs11.Session, name: str, curve: Curve) -> bytes:
        """`session` has logged in, for all sessions of the token; only this one may write."""
        from pkcs11 import Attribute, KeyType, Mechanism

        with self._token().open(rw=True) as writing:
            parameters = writing.create_domain_parameters(KeyType[curve.key_type], {Attribute.EC_PARAMS: curve.params}, local=True)
            public, _ = parameters.generate_keypair(
                mechanism=Mechanism[curve.mechanism],
                store=True,
                label=name,
                id=secrets.token_bytes(16),
                private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
            return _raw(public[Attribute.EC_POINT], name, curve)

    def _secrets(self, session: pkcs11.Session, name: str) -> list[Any]:
        from pkcs11 import Attribute, KeyType, ObjectClass

        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.LABEL: name}
        return list(session.get_objects(wanted))

    def _secret(self, session: pkcs11.Session, name: str) -> Any:
        found = self._secrets(session, name)
        if len(found) != 1:
            raise Stalled("Token", f"token {self._label!r}, label {name!r}: must hold one AES key, holds {len(found)}")
        return found[0]

    def _make_secret(self, name: str) -> None:
        from pkcs11 import Attribute, KeyType

        with self._token().open(rw=True) as writing:
            template = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.ENCRYPT: True, Attribute.DECRYPT: True}
            writing.generate_key(KeyType.AES, 256, store=True, label=name, id=secrets.token_bytes(16), template=template)

    def _decrypt(self, session: pkcs11.Session, name: str, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
        """Tokens say in many ways that a tag is wrong, SoftHSM as a general error: one that then opens what it encrypts itself is well."""
        from pkcs11.exceptions import PKCS11Error

        key = self._secret(session, name)
        try:
            return bytes(key.decrypt(ciphertext, **_gcm(nonce, aad)))
        except PKCS11Error:
            probe = _gcm(secrets.token_bytes(len(nonce)), aad)
            if bytes(key.decrypt(bytes(key.encrypt(_PROBE, **probe)), **probe)) != _PROBE:
                raise
            return None


def _gcm(nonce: bytes, aad: bytes) -> dict[str, Any]:
    from pkcs11 import GCMParams, Mechanism

    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(nonce, aad, 128)}


def _raw(point: bytes, name: str, curve: Curve) -> bytes:
    """The bytes of EC_POINT, which some tokens give bare and most in DER, as an OCTET STRING."""
    size = curve.public_bytes
    raw = point[2:] if point[:2] == bytes((4, size)) and len(point) == size + 2 else point
    if len(raw) != size:
        raise Stalled("Token", f"key {name!r}: must be of {curve.name}")
    return raw


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
